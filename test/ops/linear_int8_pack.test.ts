import assert from 'node:assert/strict';
import type { Tensor } from '../../lib/native/tensor.js';
import { toBf16 } from '../support/bf16.js';
import { assertClose } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { fromF16, toF16 } from '../support/f16.js';
import { roundedToInt8 } from '../support/int8Weights.js';
import {
  type DeviceCase,
  devicesUnderTest,
  type OpBench,
  reference,
  requireDevice,
  type Values,
  withBench,
} from '../support/opBench.js';
import { heldAs } from '../support/precision.js';
import { uniforms } from '../support/uniforms.js';

type SourceType = 'f32' | 'f16' | 'bf16';
const sourceTypes = ['f32', 'f16', 'bf16'] as const;

/** f16 bits of finite numbers of every kind: zeros, subnormals, normals. */
const halves = (size: number) => Uint16Array.from({ length: size }, (_, i) => (i * 40_503) & 0xfbff);

interface Part {
  dtype: SourceType;
  rows: number;
  /** Elements between rows of the source beyond their length. */
  gap?: number;
  /** By row and column. Default: numbers at random. */
  value?: (n: number, k: number) => number;
}

/** What is uploaded, and the numbers that it stands for. */
function valuesOf({ dtype, rows, value }: Part, K: number, seed: number): { given: Values; numbers: Float64Array } {
  const numbers = value
    ? Float64Array.from({ length: rows * K }, (_, i) => value(Math.floor(i / K), i % K))
    : Float64Array.from(uniforms(rows * K, seed, 0.02));
  if (dtype === 'f16') {
    const given = value ? Uint16Array.from(numbers, toF16) : halves(rows * K);
    return { given, numbers: Float64Array.from(given, fromF16) };
  }
  return { given: numbers, numbers: heldAs(dtype, numbers) };
}

const cases: { title: string; K: number; group: number; parts: Part[] }[] = [
  { title: 'one group of one row', K: 32, group: 32, parts: [{ dtype: 'f32', rows: 1 }] },
  ...sourceTypes.flatMap((dtype) => [
    { title: `${dtype}, rows beyond panels`, K: 96, group: 32, parts: [{ dtype, rows: 130 }] },
    { title: `${dtype}, groups of 64, strided`, K: 192, group: 64, parts: [{ dtype, rows: 65, gap: 3 }] },
    { title: `${dtype}, groups of 128`, K: 256, group: 128, parts: [{ dtype, rows: 33 }] },
    {
      title: `${dtype}, halfway between whole numbers`,
      ...{
        K: 64,
        group: 64,
        parts: [{ dtype, rows: 7, value: (n: number, k: number) => (k === n ? -127 : k - 31.5) }],
      },
    },
    { title: `${dtype}, zeros`, K: 64, group: 32, parts: [{ dtype, rows: 3, value: () => 0 }] },
  ]),
  {
    title: 'numbers too large for a scale of f16',
    ...{ K: 64, group: 32, parts: [{ dtype: 'f32', rows: 5, value: (n, k) => (k - 31) * 10 ** (4 + 8 * n) }] },
  },
  {
    title: 'numbers too small for a scale of f16',
    ...{ K: 64, group: 32, parts: [{ dtype: 'f32', rows: 9, value: (n, k) => (k - 31) * 10 ** -(4 + n) }] },
  },
  {
    title: 'the largest and the smallest numbers of f32',
    ...{
      K: 32,
      group: 32,
      parts: [{ dtype: 'f32', rows: 2, value: (n, k) => (n === 0 ? 3.4e38 : 2 ** -149) * (k % 2 === 0 ? 1 : -1) }],
    },
  },
  {
    title: 'an outlier in a group',
    ...{
      K: 96,
      group: 32,
      parts: [{ dtype: 'f32', rows: 6, value: (n, k) => (k === 40 ? -1000 : Math.sin(n * 96 + k)) }],
    },
  },
  {
    title: 'three dtypes as one matrix, bounds within panels',
    ...{
      K: 64,
      group: 32,
      parts: [
        { dtype: 'bf16', rows: 70 },
        { dtype: 'f32', rows: 0 },
        { dtype: 'f32', rows: 11 },
        { dtype: 'f16', rows: 60, gap: 1 },
      ],
    },
  },
  { title: 'the width of 0.5B', K: 896, group: 128, parts: [{ dtype: 'bf16', rows: 70 }] },
];

/** Every element of a packed weight: what it gives for tokens with a single one in them, some tokens at a time. */
async function unpacked(bench: OpBench, weight: Tensor): Promise<Float64Array> {
  const [N, K] = weight.shape as [number, number];
  const values = new Float64Array(N * K);
  const out = bench.empty('f32', [32, N]);
  for (let first = 0; first < K; first += 32) {
    const ones = Float64Array.from({ length: 32 * K }, (_, i) => (i % K === first + Math.floor(i / K) ? 1 : 0));
    bench.run('linear_int8', { x: bench.from('bf16', [32, K], ones), weight, out, exact: 1, batch_invariant: 0 });
    const columns = await bench.read(out);
    for (let n = 0; n < N; n++) for (let k = 0; k < 32; k++) values[n * K + first + k] = columns[k * N + n]!;
  }
  return values;
}

function packsParts(device: DeviceCase, K: number, group: number, parts: readonly Part[], reversed: boolean) {
  return withBench(device, async (bench) => {
    const N = parts.reduce((sum, { rows }) => sum + rows, 0);
    const weight = bench.weight('linearWeight', N, K, { dtype: 'int8', group });
    const expected = new Float64Array(N * K);
    let offset = 0;
    const calls = parts.map((part, i) => {
      const { given, numbers } = valuesOf(part, K, i);
      expected.set(roundedToInt8(numbers, group).weight, offset * K);
      const source = bench.from(part.dtype, [part.rows, K], given, K + (part.gap ?? 0));
      const call = { source, weight, row_offset: offset };
      offset += part.rows;
      return call;
    });
    for (const call of reversed ? calls.reverse() : calls) bench.run('linear_int8_pack', call);
    assertClose(await unpacked(bench, weight), expected, 0);
  });
}

for (const device of [reference, ...devicesUnderTest])
  describe(`linear_int8_pack on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const { title, K, group, parts } of cases)
      for (const order of parts.length > 1 ? ['in order', 'last part first'] : ['in order'])
        it(`${title}, ${order}`, () => packsParts(device, K, group, parts, order !== 'in order'));

    it('leaves the rows beside its own as they were', () =>
      withBench(device, async (bench) => {
        const weight = bench.weight('linearWeight', 100, 64, { dtype: 'int8', group: 32 });
        const [before, after] = [uniforms(6400, 1), uniforms(3 * 64, 2)];
        bench.run('linear_int8_pack', { source: bench.from('f32', [100, 64], before), weight, row_offset: 0 });
        bench.run('linear_int8_pack', { source: bench.from('f32', [3, 64], after), weight, row_offset: 62 });
        const expected = roundedToInt8(before, 32).weight;
        expected.set(roundedToInt8(after, 32).weight, 62 * 64);
        assertClose(await unpacked(bench, weight), expected, 0);
      }));

    for (const dtype of sourceTypes)
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
        it(`reports ${value} of ${dtype}, naming row and column`, () =>
          withBench(device, async (bench) => {
            const weight = bench.weight('linearWeight', 80, 96, { dtype: 'int8', group: 32 });
            const numbers = uniforms(70 * 96, 1);
            const source = (values: Float32Array) =>
              bench.from(dtype, [70, 96], dtype === 'f32' ? values : Uint16Array.from(values, bitsOf[dtype]));
            const damaged = source(numbers.with(66 * 96 + 41, value));
            bench.run('linear_int8_pack', { source: damaged, weight, row_offset: 5 });
            await assert.rejects(bench.stream.synchronized(), {
              code: 'invalid_argument',
              message: /the weight at row 66, column 41 is not a finite number; in linear_int8_pack\(/,
            });
            bench.run('linear_int8_pack', { source: source(numbers), weight, row_offset: 5 });
            await bench.stream.synchronized();
          }));
  });

const bitsOf = { f16: toF16, bf16: toBf16 };

const rows = /rows row_offset … row_offset \+ R must lie within the weight's N rows/;

describeContract({
  op: 'linear_int8_pack',
  valid: (bench) => ({
    source: bench.from('f16', [2, 64], halves(128)),
    weight: bench.weight('linearWeight', 5, 64, { dtype: 'int8', group: 32 }),
    row_offset: 3,
  }),
  free: ['weight.0'],
  violations: [
    { title: 'rows past the end', change: () => ({ row_offset: 4 }), says: rows },
    { title: 'rows past the end of 32 bits', change: () => ({ row_offset: 2 ** 31 - 1 }), says: rows },
    { title: 'rows before the start', change: () => ({ row_offset: -1 }), says: rows },
    {
      title: 'a source of i32',
      change: (bench) => ({ source: bench.empty('i32', [2, 64]) }),
      says: /source must be f32 or f16 or bf16/,
    },
    {
      title: 'a source of another K',
      change: (bench) => ({ source: bench.empty('f32', [2, 96]) }),
      says: /source must be \[R=2, K=64\]: K is set by weight/,
    },
    {
      title: 'the weight of linear_int4',
      change: (bench) => ({ weight: bench.weight('linearWeight', 8, 64, { dtype: 'int4', group: 32 }) }),
      says: /weight must be int8/,
    },
    {
      title: 'a weight packed for swiglu',
      change: (bench) => ({ weight: bench.weight('swigluWeight', 6, 64, { dtype: 'int8', group: 32 }) }),
      says: /weight must be a weight packed for this operation/,
    },
  ],
});
