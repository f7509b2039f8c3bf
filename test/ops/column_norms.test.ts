import { f32Epsilon } from '../support/bf16.js';
import { assertClose } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { devicesUnderTest, reference, requireDevice, withBench } from '../support/opBench.js';
import { heldAs } from '../support/precision.js';
import { uniforms } from '../support/uniforms.js';

interface Case {
  title: string;
  T: number;
  K: number;
  deviation?: number;
  /** Elements between rows beyond their length. */
  gap?: number;
}

const cases: Case[] = [
  { title: 'no rows', T: 0, K: 8 },
  { title: 'one number', T: 1, K: 1 },
  { title: 'one row', T: 1, K: 70 },
  { title: 'an odd width', T: 5, K: 37 },
  { title: 'strided rows', T: 19, K: 66, gap: 3 },
  { title: 'small numbers', T: 40, K: 40, deviation: 1e-12 },
  { title: 'large numbers', T: 40, K: 40, deviation: 1e12 },
  { title: 'many rows', T: 700, K: 33 },
  { title: '0.5B', T: 3, K: 4864 },
];

for (const device of [reference, ...devicesUnderTest])
  describe(`column_norms on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const dtype of ['bf16', 'f32'] as const)
      for (const power of [1, 2])
        for (const of of ['one', 'two'])
          for (const { title, T, K, deviation, gap = 0 } of cases)
            it(`${title}, of ${of}, power ${power}, ${dtype}[${T}, ${K}]`, () =>
              withBench(device, async (bench) => {
                const [a, b] = [1, 2].map((seed) => heldAs(dtype, uniforms(T * K, K + seed, deviation)));
                const out = bench.empty('f32', [K]);
                bench.run('column_norms', {
                  a: bench.from(dtype, [T, K], a!, K + gap),
                  b: of === 'two' ? bench.from(dtype, [T, K], b!, K + 2 * gap) : undefined,
                  ...{ out, power },
                });
                const expected = new Float64Array(K);
                for (const [i, x] of a!.entries()) expected[i % K]! += Math.abs(of === 'two' ? x - b![i]! : x) ** power;
                // A difference is rounded once, and its square twice that far off.
                assertClose(await bench.read(out), expected, (k) => (T + 4) * f32Epsilon * expected[k]! + 2 ** -126);
              }));
  });

describeContract({
  op: 'column_norms',
  valid: (bench) => ({
    a: bench.from('bf16', [3, 8], uniforms(24, 1)),
    b: bench.from('bf16', [3, 8], uniforms(24, 2)),
    out: bench.empty('f32', [8]),
    power: 2,
  }),
  violations: [
    {
      title: 'b of another dtype',
      change: (bench) => ({ b: bench.empty('f32', [3, 8]) }),
      says: /a and b must have the same dtype/,
    },
    {
      title: 'b of another width',
      change: (bench) => ({ b: bench.empty('bf16', [3, 7]) }),
      says: /b must be \[T=3, K=8\]/,
    },
    { title: 'out of bf16', change: (bench) => ({ out: bench.empty('bf16', [8]) }), says: /out must be f32/ },
    { title: 'power 3', change: () => ({ power: 3 }), says: /power must be 1 or 2/ },
    {
      title: 'out that overlaps a',
      change: (bench) => {
        const a = bench.empty('f32', [3, 8]);
        return { a, b: undefined, out: a.narrow(0, 0, 1).view(8) };
      },
      says: /out must not overlap a/,
    },
  ],
});
