import assert from 'node:assert/strict';
import { assertClose, rmsError } from './compare.js';
import type { DeviceCase } from './opBench.js';
import { type Activation, afterRounding, heldAs, sumError } from './precision.js';

/** A weight [N, K] as numbers, with what the rounding errors of its products are proportional to. */
export interface QuantizedNumbers {
  weight: Float64Array;
  magnitude: Float64Array;
}

/** Sums of products in float64, and what they may be off by. All [T, N]. */
export interface QuantizedProducts {
  sums: Float64Array;
  /** Σ|x| · magnitude: fp32 sums are off by a fraction of it. */
  magnitudes: Float64Array;
  /** What rounding x to 8 bits moves a sum by: at most, and by its variance. */
  rounding: { most: Float64Array; variance: Float64Array };
}

/** x[T, K] · weight[N, K]ᵀ, K in groups of `group`. */
export function quantizedProducts(
  x: Float64Array,
  { weight, magnitude }: QuantizedNumbers,
  K: number,
  group: number,
): QuantizedProducts {
  const [T, N, G] = [x.length / K, weight.length / K, K / group];
  const [sums, magnitudes, most, variance] = Array.from({ length: 4 }, () => new Float64Array(T * N)) as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const [total, squares] = groupSums(weight, group);
  for (let t = 0; t < T; t++) {
    const row = x.subarray(t * K, (t + 1) * K);
    const steps = Float64Array.from({ length: G }, (_, g) => stepOf(row.subarray(g * group, (g + 1) * group)));
    for (let n = 0; n < N; n++) {
      let [sum, size] = [0, 0];
      for (let k = 0; k < K; k++) {
        sum += row[k]! * weight[n * K + k]!;
        size += Math.abs(row[k]!) * magnitude[n * K + k]!;
      }
      const at = t * N + n;
      sums[at] = sum;
      magnitudes[at] = size;
      for (let g = 0; g < G; g++) {
        most[at]! += (steps[g]! / 2) * total[n * G + g]!;
        variance[at]! += (steps[g]! ** 2 / 12) * squares[n * G + g]!;
      }
    }
  }
  return { sums, magnitudes, rounding: { most, variance } };
}

/** The distance of neighbouring numbers where a group of x is rounded to −127 … 127 times a scale. */
const stepOf = (x: Float64Array) => x.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0) / 127;

/** Σ|w| and Σw² of each group. */
function groupSums(weight: Float64Array, group: number): [Float64Array, Float64Array] {
  const total = new Float64Array(weight.length / group);
  const squares = new Float64Array(weight.length / group);
  for (let i = 0; i < weight.length; i++) {
    total[Math.floor(i / group)]! += Math.abs(weight[i]!);
    squares[Math.floor(i / group)]! += weight[i]! ** 2;
  }
  return [total, squares];
}

/** The values of `exact` that make a difference to a device: but for the CPU, all are exact without being asked. */
export const exactnessOf = ({ name }: DeviceCase): readonly (0 | 1)[] => (name === 'cpu' ? [1, 0] : [0]);

/** What each sum may be off by before it is rounded to the dtype of out: at most, and as its variance. */
export function sumErrors(
  device: DeviceCase,
  { magnitudes, rounding }: QuantizedProducts,
  K: number,
  exact: number,
): { most: Float64Array; variance: Float64Array } {
  const rounded = device.name === 'cpu' && exact === 0;
  // A 10,000th more: x is divided by its step in fp32.
  const most = magnitudes.map((size, i) => sumError(device, K) * size + (rounded ? 1.0001 * rounding.most[i]! : 0));
  return { most, variance: rounded ? rounding.variance : new Float64Array(magnitudes.length) };
}

/**
 * Asserts that values are as precise as the contracts of int4 and int8 products have it. Each is within its errors and one
 * rounding to the dtype. All of them, by the root of the mean of squares, are within 1.1 times that rounding in bf16, where
 * fp32 sums don't show, and by the mean within 10⁻⁴ in f32. Where x was rounded to 8 bits, they are within 1.1 times what
 * uniform errors in x make, and more where there are too few of them to be statistics.
 */
export function assertPrecise(
  actual: Float64Array,
  expected: Float64Array,
  dtype: Activation,
  { most, variance }: { most: Float64Array; variance: Float64Array },
): void {
  assertClose(actual, expected, (i) => afterRounding(dtype, expected[i]!, most[i]!));
  if (expected.length === 0) return;
  const ofX = Math.sqrt(variance.reduce((sum, value) => sum + value, 0) / variance.length);
  if (dtype === 'f32' && ofX === 0) {
    const error = meanRelativeError(actual, expected);
    assert.ok(error < 1e-4, `mean relative error ${error}`);
    return;
  }
  const allowed = 1.1 + (ofX === 0 ? 0 : 3 / Math.sqrt(expected.length));
  const ratio = rmsError(actual, expected) / Math.hypot(rmsError(heldAs(dtype, expected), expected), ofX);
  if (rmsError(actual, expected) > 0)
    assert.ok(ratio <= allowed, `RMS error ${ratio} of what it may be, allowed ${allowed}`);
}

function meanRelativeError(actual: Float64Array, expected: Float64Array): number {
  const total = expected.reduce((sum, value) => sum + Math.abs(value), 0);
  return total === 0 ? 0 : expected.reduce((sum, value, i) => sum + Math.abs(actual[i]! - value), 0) / total;
}

/** Some of 31 rows, by the first and their number: what is multiplied alone, and must give the same bits. */
export const rowsOf31 = [
  [0, 1],
  [30, 1],
  [3, 2],
  [11, 4],
  [2, 8],
  [7, 9],
  [9, 17],
] as const;

/** The same of 150. */
export const rowsOf150 = [
  [0, 1],
  [149, 1],
  [3, 2],
  [5, 3],
  [11, 4],
  [7, 9],
  [2, 16],
  [100, 17],
  [9, 33],
  [20, 100],
] as const;
