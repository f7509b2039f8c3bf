import assert from 'node:assert/strict';
import { assertClose } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { devicesUnderTest, reference, requireDevice, withBench } from '../support/opBench.js';
import { uniforms } from '../support/uniforms.js';

/** theta^(−2j / D), as a checkpoint's config gives it. */
const frequencies = (D: number, theta = 1e6) => Float32Array.from({ length: D / 2 }, (_, j) => theta ** ((-2 * j) / D));

interface Case {
  title: string;
  positions: readonly number[];
  D: number;
  scale?: number;
  gap?: number;
}

const cases: Case[] = [
  { title: 'position 0', positions: [0], D: 2 },
  { title: 'positions out of order and repeated', positions: [5, 0, 5, 1, 131_071], D: 64 },
  { title: 'the largest position', positions: [2 ** 31 - 1, 2 ** 24 + 1, 2 ** 20], D: 128 },
  { title: 'negative positions', positions: [-1, -1000], D: 16 },
  { title: 'an attention factor', positions: [1, 77, 4096], D: 80, scale: 0.1 * Math.log(4) + 1 },
  { title: 'strided rows', positions: [9, 8, 7], D: 10, gap: 3 },
  { title: 'more tokens than a thread takes at once', positions: Array.from({ length: 70 }, (_, t) => t * 3), D: 6 },
  { title: 'no tokens', positions: [], D: 8 },
];

for (const device of [reference, ...devicesUnderTest])
  describe(`rope_table on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const { title, positions, D, scale = 1, gap = 0 } of cases)
      it(title, () =>
        withBench(device, async (bench) => {
          const table = bench.empty('f32', [positions.length, D], D + gap);
          bench.run('rope_table', {
            positions: bench.from('i32', [positions.length], positions),
            frequencies: bench.from('f32', [D / 2], frequencies(D)),
            table,
            scale,
          });
          const { fround, cos, sin } = Math;
          const expected = positions.flatMap((position) => {
            const angles = [...frequencies(D)].map((frequency) => fround(fround(position) * frequency));
            return [...angles.map(cos), ...angles.map(sin)].map((x) => x * fround(scale));
          });
          // 2 fp32 ulps of 1; of float64 results, one rounding.
          const tolerance = device.name === 'reference' ? 2 ** -24 : 2 ** -22;
          assertClose(await bench.read(table), expected, tolerance * Math.max(1, scale));
          await bench.requireGapsUntouched(table);
        }),
      );
  });

describe('the angles of rope_table', () => {
  it('are rounded to fp32: at position 2²⁴ + 1 they are those of 2²⁴', () =>
    withBench(reference, async (bench) => {
      const table = bench.empty('f32', [2, 2]);
      bench.run('rope_table', {
        positions: bench.from('i32', [2], [2 ** 24, 2 ** 24 + 1]),
        frequencies: bench.from('f32', [1], [1]),
        table,
        scale: 1,
      });
      const [cos, sin, ...next] = await bench.read(table);
      assert.deepEqual(next, [cos, sin]);
    }));
});

describeContract({
  op: 'rope_table',
  valid: (bench) => ({
    positions: bench.from('i32', [3], [0, 1, 2]),
    frequencies: bench.from('f32', [4], uniforms(4, 1)),
    table: bench.empty('f32', [3, 8]),
    scale: 1,
  }),
  violations: [
    {
      title: 'a table of an odd width',
      change: (bench) => ({ table: bench.empty('f32', [3, 7]) }),
      says: /table must have two columns for each frequency/,
    },
    {
      title: 'a table of another number of tokens',
      change: (bench) => ({ table: bench.empty('f32', [4, 8]) }),
      says: /table must be \[T=3, D\]: T is set by positions/,
    },
    {
      title: 'a table of bf16',
      change: (bench) => ({ table: bench.empty('bf16', [3, 8]) }),
      says: /table must be f32/,
    },
  ],
});
