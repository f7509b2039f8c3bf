import assert from 'node:assert/strict';
import { Tensor } from '../../lib/native/tensor.js';
import { toBf16 } from '../support/bf16.js';
import { assertClose, assertSameBits, rmsError } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { fromF16, toF16 } from '../support/f16.js';
import { dequantized, fromWords, type Int4Matrix, int4Formats } from '../support/int4Formats.js';
import { roundedToInt4 } from '../support/int4Rounding.js';
import {
  type DeviceCase,
  devicesUnderTest,
  type OpBench,
  reference,
  requireDevice,
  withBench,
} from '../support/opBench.js';
import { products } from '../support/opModels.js';
import { heldAs } from '../support/precision.js';
import { uniforms } from '../support/uniforms.js';

type SourceType = 'f32' | 'f16' | 'bf16';
const sourceTypes = ['f32', 'f16', 'bf16'] as const;

interface Case {
  title: string;
  N: number;
  K: number;
  /** Columns that share a scale. Default 32. */
  group?: number;
  /** Default 20. */
  clipSteps?: number;
  /** Default f32. */
  dtype?: SourceType;
  /** By row and column. Default: numbers at random, more of them close to zero. */
  value?: (n: number, k: number) => number;
  columnScales?: (k: number) => number;
  /** Elements between rows beyond their length. */
  gap?: number;
}

const bellShaped = (size: number, seed: number) => uniforms(size, seed, 0.03).map((x) => x * Math.abs(x) * 20);

const cases: Case[] = [
  { title: 'one group of eight rows', N: 8, K: 32 },
  ...[32, 64, 128].flatMap((group) =>
    [0, 1, 20, 30].map((clipSteps) => ({
      title: `groups of ${group}, ${clipSteps} steps`,
      ...{ N: 24, K: 3 * group, group, clipSteps },
    })),
  ),
  ...[16, 40, 136, 264].map((N) => ({ title: `${N} rows`, N, K: 64 })),
  ...sourceTypes.flatMap((dtype) => [
    { title: `of ${dtype}`, N: 24, K: 96, dtype },
    { title: `of ${dtype}, strided, scaled`, N: 24, K: 96, dtype, gap: 3, columnScales: (k: number) => 0.1 + (k % 7) },
  ]),
  { title: 'zeros', N: 8, K: 32, value: () => 0 },
  { title: 'constants of both signs', N: 16, K: 64, value: (n, k) => (k < 32 ? 0.3 : -0.3) * (n + 1) },
  { title: 'positive numbers', N: 8, K: 64, value: (n, k) => 1 + ((7 * k + n) % 13) / 13 },
  { title: 'negative numbers', N: 8, K: 64, value: (n, k) => -1 - ((7 * k + n) % 13) / 13 },
  { title: 'halfway between whole numbers', N: 8, K: 64, value: (_, k) => (k % 31) / 2 - 7.5 },
  { title: 'numbers too large for a scale of f16', N: 16, K: 32, value: (n, k) => (k - 11) * 10 ** (4 + 2 * n) },
  { title: 'numbers too small for a scale of f16', N: 16, K: 32, value: (n, k) => (k - 11) * 10 ** -(4 + n) },
  { title: 'the largest numbers of f32', N: 8, K: 32, value: (_, k) => (k % 2 === 0 ? 3.4e38 : -3.4e38) },
  { title: 'the smallest numbers of f32', N: 8, K: 32, value: (_, k) => (k % 2 === 0 ? 2 ** -149 : -(2 ** -149)) },
  { title: 'a tie of two shrinks, of which the first is taken', N: 8, K: 32, value: (_, k) => tied[k] ?? 0 },
  { title: 'shrinks that only the order of a sum tells apart', N: 64, K: 32, value: (n, k) => tied[k] ?? small(n, k) },
  { title: 'an outlier', N: 8, K: 64, value: (n, k) => (k === 9 ? 3 + n : Math.sin(5 * k + n)) },
  { title: 'the width of 0.5B', N: 16, K: 896, group: 128, dtype: 'bf16' },
];

/** Scales of 40 and of 39 are off by 15 for one of these each. Smaller numbers than half of that are zeros with either. */
const tied: Record<number, number> = { 0: 600, 31: 585 };
const small = (n: number, k: number) => 18 * Math.abs(Math.sin(31 * n + k));

/** The numbers that a source of the dtype holds. */
function numbersOf({ N, K, dtype = 'f32', value }: Case): Float32Array {
  const values = value
    ? Float32Array.from({ length: N * K }, (_, i) => value(Math.floor(i / K), i % K))
    : bellShaped(N * K, N + K);
  return dtype === 'f16' ? values.map((x) => fromF16(toF16(x))) : Float32Array.from(heldAs(dtype, values));
}

const encodings = { f32: (x: number) => x, f16: toF16, bf16: toBf16 };

function prepare(bench: OpBench, given: Case, numbers: Float32Array) {
  const { N, K, group = 32, clipSteps = 20, dtype = 'f32', columnScales, gap = 0 } = given;
  const [G, encoded] = [K / group, dtype === 'f32' ? numbers : Uint16Array.from(numbers, encodings[dtype])];
  const scales = Array.from({ length: K }, (_, k) => columnScales?.(k) ?? 1);
  return {
    source: bench.from(dtype, [N, K], encoded, K + gap),
    column_scales: columnScales && bench.from('f32', [K], scales),
    qweight: bench.empty('i32', [K, N / 8], N / 8 + gap),
    qzeros: bench.empty('i32', [G, N / 8], N / 8 + gap),
    scales: bench.empty('f16', [G, N], N + gap),
    clip_steps: clipSteps,
  };
}

/** What an operation wrote, read as AWQ's words. */
async function written(bench: OpBench, { qweight, qzeros, scales }: ReturnType<typeof prepare>): Promise<Int4Matrix> {
  const [K, G, N] = [qweight.shape[0]!, scales.shape[0]!, scales.shape[1]!];
  const words = {
    qweight: Int32Array.from(await bench.read(qweight)),
    qzeros: Int32Array.from(await bench.read(qzeros)),
    scales: Uint16Array.from(await bench.read(scales)),
  };
  return fromWords('awq', words, N, K, G);
}

async function quantized(device: DeviceCase, given: Case, numbers: Float32Array): Promise<Int4Matrix> {
  return await withBench(device, async (bench) => {
    const args = prepare(bench, given, numbers);
    bench.run('quantize_int4', args);
    const matrix = await written(bench, args);
    for (const out of [args.qweight, args.qzeros, args.scales]) await bench.requireGapsUntouched(out);
    return matrix;
  });
}

function assertSameMatrix(actual: Int4Matrix, expected: Int4Matrix): void {
  assertSameBits(actual.scales, expected.scales, 'scales');
  assertSameBits(actual.zeros, expected.zeros, 'zeros');
  assertSameBits(actual.q, expected.q, 'q');
}

for (const device of [reference, ...devicesUnderTest])
  describe(`quantize_int4 on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const given of cases) {
      const { title, N, K, group = 32, clipSteps = 20, columnScales } = given;
      it(`${title}: [${N}, ${K}]`, async () => {
        const numbers = numbersOf(given);
        const w = numbers.map((x, i) => x * (columnScales ? Math.fround(columnScales(i % K)) : 1));
        assertSameMatrix(await quantized(device, given, numbers), roundedToInt4(w, N, K, K / group, clipSteps));
      });
    }

    it('gives what one finds by hand', async () => {
      const row = (values: number[]) => Array.from({ length: 32 }, (_, k) => values[k % values.length]!);
      const [whole, halves] = [Array.from({ length: 16 }, (_, i) => i), [0, 0.5, 1.5, 2.5, 15]];
      const rows = [whole, whole.map((i) => i - 8), whole.map((i) => -i), [0], [30], [-7.5], halves, [1]].map(row);
      const given = { title: '', N: 8, K: 32, clipSteps: 0 };
      const { scales, zeros, q } = await quantized(device, given, Float32Array.from(rows.flat()));
      assert.deepEqual([...scales].map(fromF16), [1, 1, 1, 2 ** -24, 2, 0.5, 1, fromF16(toF16(1 / 15))]);
      assert.deepEqual([...zeros], [0, 8, 15, 0, 0, 15, 0, 0]);
      const expected = [whole, whole, whole.map((i) => 15 - i), [0], [15], [0], [0, 0, 2, 2, 15], [15]].map(row);
      assert.deepEqual([...q], expected.flat());
    });

    it('writes what linear_int4_pack takes', () =>
      withBench(device, async (bench) => {
        const given = { title: '', N: 24, K: 96 };
        const { qweight, qzeros, scales, ...rest } = prepare(bench, given, numbersOf(given));
        bench.run('quantize_int4', { qweight, qzeros, scales, ...rest });
        const weight = bench.weight('linearWeight', 24, 96, { dtype: 'int4', group: 32 });
        bench.run('linear_int4_pack', { qweight, qzeros, scales, weight, format: int4Formats.awq, row_offset: 0 });
        const [x, out] = [uniforms(2 * 96, 1), bench.empty('f32', [2, 24])];
        bench.run('linear_int4', { x: bench.from('bf16', [2, 96], x), weight, out, exact: 1, batch_invariant: 0 });
        const numbers = dequantized([roundedToInt4(numbersOf(given), 24, 96, 3, 20)]);
        assertClose(await bench.read(out), products(heldAs('bf16', x), numbers.weight, 96).sums, 1e-5);
      }));

    for (const dtype of sourceTypes)
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
        it(`reports ${value} of ${dtype}, naming row and column`, () =>
          withBench(device, async (bench) => {
            const given = { title: '', N: 24, K: 96, dtype };
            const numbers = numbersOf(given);
            bench.run('quantize_int4', prepare(bench, given, numbers.with(21 * 96 + 41, value)));
            await assert.rejects(bench.stream.synchronized(), notFinite);
            bench.run('quantize_int4', prepare(bench, given, numbers));
            await bench.stream.synchronized();
          }));

    it('reports a weight that its column scale makes infinite', () =>
      withBench(device, async (bench) => {
        const given: Case = { title: '', N: 24, K: 96, columnScales: (k) => (k === 41 ? 1e30 : 1) };
        const numbers = numbersOf(given).map((x, i) => (i === 21 * 96 + 41 ? 1e9 : x));
        bench.run('quantize_int4', prepare(bench, given, numbers));
        await assert.rejects(bench.stream.synchronized(), notFinite);
      }));
  });

const notFinite = {
  code: 'invalid_argument',
  message: /the weight at row 21, column 41 is not a finite number; in quantize_int4\(/,
};

describe('quantize_int4', () => {
  const errors = async (given: Case) => {
    const numbers = numbersOf(given);
    const matrix = await quantized(reference, given, numbers);
    return { numbers, matrix, weight: dequantized([matrix]).weight };
  };

  it('is off by a step at most where nothing is clipped, by a quarter of it on the mean', async () => {
    const given = { title: '', N: 64, K: 256, group: 64, clipSteps: 0 };
    const { numbers, matrix, weight } = await errors(given);
    let sum = 0;
    for (const [i, w] of numbers.entries()) {
      const step = fromF16(matrix.scales[Math.floor(i / 64)]!);
      const steps = Math.abs(weight[i]! - w) / step;
      assert.ok(steps <= 1.01, `element ${i} is off by ${steps} steps`);
      sum += steps;
    }
    assert.ok(sum / numbers.length < 0.3, `${sum / numbers.length} steps on the mean`);
  });

  it('clips an outlier where that serves the rest', async () => {
    const given = (clipSteps: number): Case => ({
      title: '',
      ...{ N: 8, K: 128, group: 128, clipSteps, value: (n, k) => (k === 9 ? 2.2 : Math.sin(5 * k + n)) },
    });
    const [whole, clipped] = [await errors(given(0)), await errors(given(20))];
    for (let n = 0; n < 8; n++) assert.ok(clipped.matrix.scales[n]! < whole.matrix.scales[n]!, `row ${n}`);
    assert.ok(rmsError(clipped.weight, clipped.numbers) < 0.98 * rmsError(whole.weight, whole.numbers));
  });

  it('never does worse for clipping', async () => {
    for (const given of cases.filter(({ dtype = 'f32', columnScales }) => dtype === 'f32' && !columnScales)) {
      const [whole, clipped] = [await errors({ ...given, clipSteps: 0 }), await errors({ ...given, clipSteps: 30 })];
      const [before, after] = [rmsError(whole.weight, whole.numbers), rmsError(clipped.weight, clipped.numbers)];
      assert.ok(after <= before * (1 + 1e-6), `${given.title}: ${after} after ${before}`);
    }
  });
});

describeContract({
  op: 'quantize_int4',
  valid: (bench) => prepare(bench, { title: '', N: 16, K: 64, columnScales: () => 1 }, bellShaped(1024, 1)),
  violations: [
    {
      title: 'rows that are not a multiple of 8',
      change: (bench) => ({ source: bench.empty('f32', [12, 64]) }),
      says: /source must have rows that are a multiple of 8/,
    },
    {
      title: 'no rows',
      change: (bench) => prepare(bench, { title: '', N: 0, K: 64 }, new Float32Array()),
      says: /qweight must be \[K=64, R\/8=0\] with rows that are not empty/,
    },
    {
      title: 'a source of i32',
      change: (bench) => ({ source: bench.empty('i32', [16, 64]) }),
      says: /source must be f32 or f16 or bf16/,
    },
    {
      title: 'column scales of another number',
      change: (bench) => ({ column_scales: bench.empty('f32', [32]) }),
      says: /column_scales must be \[K=64\]/,
    },
    {
      title: 'groups of 16',
      change: (bench) => ({ qzeros: bench.empty('i32', [4, 2]), scales: bench.empty('f16', [4, 16]) }),
      says: /K \/ G must be a group of 32, 64 or 128 columns/,
    },
    {
      title: 'no groups',
      change: (bench) => ({ qzeros: bench.empty('i32', [0, 2]), scales: bench.empty('f16', [0, 16]) }),
      says: /K \/ G must be a group of 32, 64 or 128 columns/,
    },
    { title: 'clip_steps of −1', change: () => ({ clip_steps: -1 }), says: /clip_steps must be from 0 to 30/ },
    { title: 'clip_steps of 31', change: () => ({ clip_steps: 31 }), says: /clip_steps must be from 0 to 30/ },
    {
      title: 'words that overlap the source',
      change: (_, { source }) => ({
        qweight: new Tensor(source.storage, 'i32', [64, 2]),
      }),
      says: /qweight must not overlap source/,
    },
  ],
});
