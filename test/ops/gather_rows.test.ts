import assert from 'node:assert/strict';
import { assertSameBits } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { activationsOf, devicesUnderTest, reference, requireDevice, withBench } from '../support/opBench.js';
import { heldAs } from '../support/precision.js';
import { uniforms } from '../support/uniforms.js';

interface Case {
  title: string;
  rows: readonly number[];
  T: number;
  H: number;
  /** Elements between rows beyond their length. */
  gap?: number;
}

const cases: Case[] = [
  { title: 'one row of one', rows: [0], T: 1, H: 1 },
  { title: 'rows out of order, some twice, some never', rows: [4, 0, 4, 2], T: 5, H: 9 },
  { title: 'strided rows', rows: [2, 1], T: 3, H: 17, gap: 3 },
  { title: 'no rows', rows: [], T: 3, H: 4 },
  { title: 'no rows of none', rows: [], T: 0, H: 4 },
  { title: 'the width of 7B', rows: [6, 3], T: 7, H: 3584 },
];

for (const device of [reference, ...devicesUnderTest])
  describe(`gather_rows on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const dtype of [...activationsOf(device), 'i32'] as const)
      for (const { title, rows, T, H, gap = 0 } of cases)
        it(`${title}, ${dtype}`, () =>
          withBench(device, async (bench) => {
            const numbers = uniforms(T * H, T + H);
            const x = dtype === 'i32' ? numbers.map((number) => Math.floor(1e9 * number)) : heldAs(dtype, numbers);
            const out = bench.empty(dtype, [rows.length, H], H + gap);
            bench.run('gather_rows', {
              x: bench.from(dtype, [T, H], x, H + 2 * gap),
              rows: bench.from('i32', [rows.length], rows),
              out,
            });
            const expected = rows.flatMap((row) => [...x.subarray(row * H, (row + 1) * H)]);
            assertSameBits(await bench.read(out), expected);
            await bench.requireGapsUntouched(out);
          }));

    for (const row of [3, -1, 2 ** 31 - 1, -(2 ** 31)])
      it(`reports row ${row} of 3`, () =>
        withBench(device, async (bench) => {
          const x = bench.from('bf16', [3, 2], uniforms(6, 1));
          bench.run('gather_rows', { x, rows: bench.from('i32', [2], [0, row]), out: bench.empty('bf16', [2, 2]) });
          await assert.rejects(bench.stream.synchronized(), {
            code: 'invalid_argument',
            message: new RegExp(`rows\\[1\\] = ${row} is outside the 3 rows of x; in gather_rows\\(`),
          });
        }));
  });

describeContract({
  op: 'gather_rows',
  valid: (bench) => ({
    x: bench.from('bf16', [4, 6], uniforms(24, 1)),
    rows: bench.from('i32', [2], [3, 0]),
    out: bench.empty('bf16', [2, 6]),
  }),
  free: ['x.0'],
  violations: [
    {
      title: 'out of another width',
      change: (bench) => ({ out: bench.empty('bf16', [2, 5]) }),
      says: /out must be \[B=2, H=6\]: H is set by x/,
    },
    {
      title: 'out of another dtype than x',
      change: (bench) => ({ out: bench.empty('f32', [2, 6]) }),
      says: /x and out must have the same dtype, they have bf16 and f32/,
    },
    { title: 'out within x', change: (_, { x }) => ({ out: x.narrow(0, 2, 2) }), says: /out must not overlap x/ },
  ],
});
