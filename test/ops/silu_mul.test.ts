import assert from 'node:assert/strict';
import { assertClose, assertSameBits } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { activationsOf, devicesUnderTest, reference, requireDevice, withBench } from '../support/opBench.js';
import { silu } from '../support/opModels.js';
import { afterRounding, heldAs } from '../support/precision.js';
import { productOnItsWay } from '../support/productOnItsWay.js';
import { uniforms } from '../support/uniforms.js';

interface Case {
  title: string;
  T: number;
  I: number;
  /** Of gate. Default 1. */
  deviation?: number;
  /** Elements between rows beyond their length. */
  gap?: number;
}

const cases: Case[] = [
  { title: 'one of each', T: 1, I: 1 },
  { title: 'no tokens', T: 0, I: 8 },
  { title: 'an odd width', T: 3, I: 37 },
  { title: 'whole vectors', T: 5, I: 64 },
  { title: 'a vector and a part', T: 5, I: 72 },
  { title: 'strided rows', T: 7, I: 41, gap: 3 },
  { title: 'strided rows at multiples of 16 bytes', T: 7, I: 96, gap: 8 },
  { title: 'gates far from zero', T: 4, I: 100, deviation: 60 },
  { title: 'gates very far from zero', T: 4, I: 100, deviation: 1e6 },
  { title: 'gates close to zero', T: 4, I: 100, deviation: 1e-6 },
  { title: 'many tokens', T: 150, I: 40 },
  { title: 'more columns than a thread takes at once', T: 2, I: 8199 },
  { title: '0.5B', T: 3, I: 4864 },
  { title: '72B', T: 2, I: 29696 },
];

for (const device of [reference, ...devicesUnderTest])
  describe(`silu_mul on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const dtype of activationsOf(device))
      for (const { title, T, I, deviation, gap = 0 } of cases)
        for (const inPlace of [false, true])
          it(`${title}, ${dtype}[${T}, ${I}]${inPlace ? ', in place' : ''}`, () =>
            withBench(device, async (bench) => {
              const [gate, up] = [uniforms(T * I, I, deviation), uniforms(T * I, I + 1)].map((values) =>
                heldAs(dtype, values),
              ) as [Float64Array, Float64Array];
              const gates = bench.from(dtype, [T, I], gate, I + gap);
              const ups = bench.from(dtype, [T, I], up, I + 2 * gap);
              const out = inPlace ? gates : bench.empty(dtype, [T, I], I + gap);
              bench.run('silu_mul', { gate: gates, up: ups, out });
              const expected = gate.map((g, i) => silu(g) * up[i]!);
              assertClose(await bench.read(out), expected, (i) => {
                // A few fp32 steps; e⁸⁸ is the largest divisor.
                const steps = 2 ** -21 * Math.abs(expected[i]!) + Math.abs(gate[i]! * up[i]!) * Math.exp(-88);
                return afterRounding(dtype, expected[i]!, steps);
              });
              await bench.requireGapsUntouched(out);
            }));

    it('reads what the product before it wrote', () =>
      withBench(device, async (bench) => {
        const up = bench.from('bf16', [3, 64], uniforms(3 * 64, 1));
        const activated = async (apart: boolean) => {
          const [gate, out] = [productOnItsWay(bench, 3, 64), bench.empty('bf16', [3, 64])];
          if (apart) await bench.stream.synchronized();
          bench.run('silu_mul', { gate, up, out });
          return await bench.read(out);
        };
        assertSameBits(await activated(false), await activated(true));
      }));
  });

for (const device of devicesUnderTest)
  it(`silu_mul on ${device.title} says that f32 activations are for reference`, async function () {
    requireDevice(this, device);
    await withBench(device, async (bench) => {
      const [gate, up] = [bench.from('f32', [1, 2], [1, 2]), bench.from('f32', [1, 2], [1, 2])];
      bench.run('silu_mul', { gate, up, out: bench.empty('f32', [1, 2]) });
      await assert.rejects(bench.stream.synchronized(), { code: 'unsupported', message: /use the reference device/ });
    });
  });

describeContract({
  op: 'silu_mul',
  valid: (bench) => ({
    gate: bench.from('bf16', [3, 8], uniforms(24, 1)),
    up: bench.from('bf16', [3, 8], uniforms(24, 2)),
    out: bench.empty('bf16', [3, 8]),
  }),
  violations: [
    {
      title: 'up of another width',
      change: (bench) => ({ up: bench.empty('bf16', [3, 7]) }),
      says: /up must be \[T=3, I=8\]: I is set by gate/,
    },
    {
      title: 'up of another dtype than gate',
      change: (bench) => ({ up: bench.empty('f32', [3, 8]) }),
      says: /gate and up must have the same dtype, they have bf16 and f32/,
    },
    {
      title: 'out of another dtype than gate',
      change: (bench) => ({ out: bench.empty('f32', [3, 8]) }),
      says: /gate and out must have the same dtype, they have bf16 and f32/,
    },
    { title: 'out that is up', change: (_, { up }) => ({ out: up }), says: /out must not overlap up/ },
    {
      title: 'out that overlaps gate by a part',
      change: (bench) => {
        const both = bench.empty('bf16', [3, 12]);
        return { gate: both.narrow(1, 0, 8), out: both.narrow(1, 4, 8) };
      },
      says: /out must be gate itself or not overlap it/,
    },
  ],
});
