import assert from 'node:assert/strict';
import { assertSameBits } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { hardFloats } from '../support/hardFloats.js';
import { activationsOf, devicesUnderTest, reference, requireDevice, withBench } from '../support/opBench.js';
import { heldAs } from '../support/precision.js';
import { productOnItsWay } from '../support/productOnItsWay.js';
import { permutation, uniforms } from '../support/uniforms.js';

interface Case {
  title: string;
  T: number;
  K: number;
  /** Default: a random order. */
  columns?: readonly number[];
  /** Elements between rows of x and out beyond their length. */
  gap?: number;
}

const cases: Case[] = [
  { title: 'one of each', T: 1, K: 1 },
  { title: 'no tokens', T: 0, K: 8 },
  { title: 'an odd number of columns', T: 3, K: 33 },
  { title: 'in order', T: 2, K: 64, columns: Array.from({ length: 64 }, (_, j) => j) },
  { title: 'reversed', T: 2, K: 64, columns: Array.from({ length: 64 }, (_, j) => 63 - j) },
  { title: 'one column everywhere', T: 5, K: 20, columns: new Array<number>(20).fill(19) },
  { title: 'strided rows', T: 7, K: 96, gap: 5 },
  { title: 'strided rows at multiples of 16 bytes', T: 7, K: 96, gap: 8 },
  { title: 'many tokens', T: 150, K: 160 },
  { title: 'more columns than a thread takes at once', T: 2, K: 8199 },
  { title: 'the width of 0.5B', T: 3, K: 896 },
  { title: 'the intermediate width of 72B', T: 2, K: 29696 },
];

for (const device of [reference, ...devicesUnderTest])
  describe(`permute_columns on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const dtype of activationsOf(device))
      for (const { title, T, K, columns = permutation(K, K), gap = 0 } of cases)
        it(`${title}, ${dtype}[${T}, ${K}]`, () =>
          withBench(device, async (bench) => {
            const values = uniforms(T * K, T + K);
            values.set(hardFloats.slice(0, T * K));
            const x = heldAs(dtype, values);
            const out = bench.empty(dtype, [T, K], K + gap);
            bench.run('permute_columns', {
              x: bench.from(dtype, [T, K], x, K + 2 * gap),
              columns: bench.from('i32', [K], columns),
              out,
            });
            const expected = x.map((_, i) => x[Math.floor(i / K) * K + columns[i % K]!]!);
            assertSameBits(await bench.read(out), expected);
            await bench.requireGapsUntouched(out);
          }));

    for (const column of [40, -1, 2 ** 31 - 1, -(2 ** 31)])
      it(`reports column ${column} of 40, naming its place`, () =>
        withBench(device, async (bench) => {
          const x = bench.from('bf16', [3, 40], uniforms(120, 1));
          const out = bench.empty('bf16', [3, 40]);
          const columns = permutation(40, 1);
          bench.run('permute_columns', { x, columns: bench.from('i32', [40], columns.with(21, column)), out });
          await assert.rejects(bench.stream.synchronized(), {
            code: 'invalid_argument',
            message: new RegExp(`columns\\[21\\] = ${column} is outside the 40 columns of x; in permute_columns\\(`),
          });
          bench.run('permute_columns', { x, columns: bench.from('i32', [40], columns), out });
          assert.ok((await bench.read(out)).every(Number.isFinite));
        }));

    it('reads what the product before it wrote', () =>
      withBench(device, async (bench) => {
        const columns = bench.from('i32', [64], permutation(64, 1));
        const permuted = async (apart: boolean) => {
          const [x, out] = [productOnItsWay(bench, 3, 64), bench.empty('bf16', [3, 64])];
          if (apart) await bench.stream.synchronized();
          bench.run('permute_columns', { x, columns, out });
          return await bench.read(out);
        };
        assertSameBits(await permuted(false), await permuted(true));
      }));
  });

describeContract({
  op: 'permute_columns',
  valid: (bench) => ({
    x: bench.from('bf16', [3, 8], uniforms(24, 1)),
    columns: bench.from('i32', [8], permutation(8, 1)),
    out: bench.empty('bf16', [3, 8]),
  }),
  violations: [
    {
      title: 'columns of another number',
      change: (bench) => ({ columns: bench.empty('i32', [7]) }),
      says: /columns must be \[K=8\]: K is set by x/,
    },
    {
      title: 'out of another dtype than x',
      change: (bench) => ({ out: bench.empty('f32', [3, 8]) }),
      says: /x and out must have the same dtype, they have bf16 and f32/,
    },
    { title: 'out that is x', change: (_, { x }) => ({ out: x }), says: /out must not overlap x/ },
  ],
});
