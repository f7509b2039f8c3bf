import assert from 'node:assert/strict';
import { fromBf16, toBf16 } from '../support/bf16.js';
import { assertSameBits } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { fromF16, toF16 } from '../support/f16.js';
import { devicesUnderTest, type OpBench, reference, requireDevice, withBench } from '../support/opBench.js';
import { uniforms } from '../support/uniforms.js';

type FloatType = 'f32' | 'f16' | 'bf16';
const floatTypes = ['f32', 'f16', 'bf16'] as const;

interface Case {
  title: string;
  R: number;
  K: number;
  /** Default: numbers at random. */
  value?: (i: number) => number;
  rows?: (r: number) => number;
  columns?: (k: number) => number;
  /** Elements between rows beyond their length. */
  gap?: number;
}

const odd = (i: number) => 0.3 + ((7 * i) % 11) / 3;

const cases: Case[] = [
  { title: 'no rows', R: 0, K: 8 },
  { title: 'one number', R: 1, K: 1 },
  { title: 'no scales', R: 3, K: 37 },
  { title: 'scales of rows', R: 5, K: 64, rows: odd },
  { title: 'scales of columns', R: 5, K: 65, columns: odd },
  { title: 'scales of both', R: 7, K: 41, rows: odd, columns: (k) => odd(k + 3) },
  { title: 'strided rows', R: 6, K: 40, rows: odd, columns: odd, gap: 3 },
  { title: 'more columns than a thread takes at once', R: 2, K: 8199, columns: odd },
  { title: 'zeros of both signs', R: 1, K: 8, value: (i) => (i % 2 === 0 ? 0 : -0), columns: odd },
  { title: 'numbers below the least of f16', R: 2, K: 16, value: (i) => 2 ** -(10 + i) * (i % 2 === 0 ? 1 : -1) },
  { title: 'numbers up to the largest of f16', R: 1, K: 4, value: (i) => [65280, -65280, 32768, 65024][i]! },
  { title: 'an intermediate product below the least of f32', R: 1, K: 4, rows: () => 1e-30, columns: () => 1e30 },
];

const encoders = { f32: (x: number) => x, f16: toF16, bf16: toBf16 };
const decoders = { f32: Math.fround, f16: fromF16, bf16: fromBf16 };

/** Numbers as a tensor of the dtype has them, encoded and as numbers. */
function heldAs(dtype: FloatType, numbers: Float32Array) {
  const encoded = dtype === 'f32' ? numbers : Uint16Array.from(numbers, encoders[dtype]);
  return { encoded, numbers: Float32Array.from(encoded, decoders[dtype]) };
}

/** What the operation left, as numbers. */
async function read(bench: OpBench, out: ReturnType<OpBench['empty']>): Promise<Float64Array> {
  const raw = await bench.read(out);
  return out.dtype === 'f16' ? raw.map(fromF16) : raw;
}

for (const device of [reference, ...devicesUnderTest])
  describe(`scale on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const from of floatTypes)
      for (const to of floatTypes)
        for (const { title, R, K, value, rows, columns, gap = 0 } of cases)
          it(`${title}, ${from} to ${to} [${R}, ${K}]`, () =>
            withBench(device, async (bench) => {
              const given = value ? Float32Array.from({ length: R * K }, (_, i) => value(i)) : uniforms(R * K, K);
              const { encoded, numbers } = heldAs(from, given);
              const rowScales = Float32Array.from({ length: R }, (_, r) => rows?.(r) ?? 1);
              const columnScales = Float32Array.from({ length: K }, (_, k) => columns?.(k) ?? 1);
              const out = bench.empty(to, [R, K], K + 2 * gap);
              bench.run('scale', {
                source: bench.from(from, [R, K], encoded, K + gap),
                row_scales: rows && bench.from('f32', [R], rowScales),
                column_scales: columns && bench.from('f32', [K], columnScales),
                out,
              });
              const products = numbers.map(
                (x, i) => Math.fround(x * rowScales[Math.floor(i / K)]!) * columnScales[i % K]!,
              );
              assertSameBits(await read(bench, out), heldAs(to, products).numbers);
              await bench.requireGapsUntouched(out);
            }));

    for (const [to, limit] of [
      ['f16', 65520],
      ['bf16', 3.4e38],
      ['f32', 3e38],
    ] as const)
      it(`reports a number that is not finite as ${to}`, () =>
        withBench(device, async (bench) => {
          const numbers = uniforms(24, 1);
          numbers[2 * 8 + 5] = limit;
          const column_scales = bench.from('f32', [8], new Float32Array(8).fill(to === 'f32' ? 2 : 1));
          bench.run('scale', {
            source: bench.from('f32', [3, 8], numbers),
            column_scales,
            out: bench.empty(to, [3, 8]),
          });
          await assert.rejects(bench.stream.synchronized(), {
            code: 'invalid_argument',
            message: new RegExp(`the number at row 2, column 5 is not finite as ${to}`),
          });
        }));
  });

describeContract({
  op: 'scale',
  valid: (bench) => ({
    source: bench.from('f32', [3, 8], uniforms(24, 1)),
    row_scales: bench.from('f32', [3], uniforms(3, 2)),
    column_scales: bench.from('f32', [8], uniforms(8, 3)),
    out: bench.empty('f16', [3, 8]),
  }),
  violations: [
    {
      title: 'a source of i32',
      change: (bench) => ({ source: bench.empty('i32', [3, 8]) }),
      says: /source must be f32 or f16 or bf16/,
    },
    {
      title: 'scales of another number of rows',
      change: (bench) => ({ row_scales: bench.empty('f32', [8]) }),
      says: /row_scales must be \[R=3\]/,
    },
    {
      title: 'scales of another number of columns',
      change: (bench) => ({ column_scales: bench.empty('f32', [3]) }),
      says: /column_scales must be \[K=8\]/,
    },
    {
      title: 'out that is the source',
      change: (_, { source }) => ({ out: source }),
      says: /out must not overlap source/,
    },
  ],
});
