import assert from 'node:assert/strict';
import { type DType, Tensor } from '../../lib/native/tensor.js';
import { assertSameBits } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { devicesUnderTest, type OpBench, reference, requireDevice, withBench } from '../support/opBench.js';
import { heldAs } from '../support/precision.js';

const mask = 2n ** 64n - 1n;

/** splitmix64 of seed · 2³² + i, its top 24 bits as a fraction. */
function fraction(seed: number, i: number): number {
  let z = ((BigInt(seed >>> 0) << 32n) + BigInt(i) + 0x9e3779b97f4a7c15n) & mask;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask;
  return Number((z ^ (z >> 31n)) >> 40n) * 2 ** -24;
}

/** The first values, each operation rounded to f32. */
function model(size: number, seed: number, mean: number, deviation: number): Float32Array {
  const { fround } = Math;
  const spread = fround(fround(Math.sqrt(3)) * fround(deviation));
  return Float32Array.from({ length: size }, (_, i) => fround(mean) + fround(spread * (2 * fraction(seed, i) - 1)));
}

const cases: { title: string; shape: number[]; seed: number; mean: number; std: number }[] = [
  { title: 'one value', shape: [1], seed: 0, mean: 0, std: 1 },
  { title: 'nothing', shape: [0, 5], seed: 0, mean: 0, std: 1 },
  { title: 'a scalar', shape: [], seed: 3, mean: 0, std: 1 },
  { title: 'a negative seed and a mean', shape: [7, 11], seed: -5, mean: 3, std: 0.02 },
  { title: 'no deviation', shape: [5], seed: 1, mean: -0.125, std: 0 },
  { title: 'four dimensions', shape: [2, 3, 4, 5], seed: 2 ** 31 - 1, mean: 0, std: 4 },
];

for (const device of [reference, ...devicesUnderTest])
  describe(`fill_random on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const dtype of ['f32', 'bf16'] as const)
      for (const { title, shape, seed, mean, std } of cases)
        it(`${title}, ${dtype}`, () =>
          withBench(device, async (bench) => {
            const out = bench.empty(dtype, shape);
            bench.run('fill_random', { out, seed, mean, std });
            assertSameBits(await bench.read(out), heldAs(dtype, model(out.size, seed, mean, std)));
          }));

    it('more values than a thread takes at once: uniform, with the mean and the deviation', () =>
      withBench(device, async (bench) => {
        const size = 600_000;
        const [mean, std] = [0.5, 2];
        const out = bench.empty('f32', [size]);
        bench.run('fill_random', { out, seed: 9, mean, std });
        const values = await bench.read(out);
        const last = model(size, 9, mean, std).subarray(-1000);
        assertSameBits(values.subarray(-1000), last);
        const average = values.reduce((sum, x) => sum + x) / size;
        const variance = values.reduce((sum, x) => sum + (x - average) ** 2, 0) / size;
        // Five standard errors; the fourth moment of a uniform variable is 1.8 σ⁴.
        assert.ok(Math.abs(average - mean) < (5 * std) / Math.sqrt(size));
        assert.ok(Math.abs(variance - std ** 2) < 5 * std ** 2 * Math.sqrt(0.8 / size));
        assert.ok(values.every((x) => Math.abs(x - mean) <= Math.sqrt(3) * std + 1e-6));
      }));

    for (const layout of ['linearWeight', 'swigluWeight'] as const)
      it(`a weight packed as ${layout}, as it is stored`, () =>
        withBench(device, async (bench) => {
          const weight = bench.weight(layout, 70, 5);
          bench.run('fill_random', { out: weight, seed: 4, mean: 0, std: 1 });
          const stored = new Tensor(weight.storage, 'bf16', [weight.storage.bytes / 2]);
          assertSameBits(await bench.read(stored), heldAs('bf16', model(stored.size, 4, 0, 1)));
        }));
  });

describeContract({
  op: 'fill_random',
  valid: (bench) => ({ out: bench.empty('f32', [3, 4]), seed: 1, mean: 0, std: 1 }),
  anyShape: ['out'],
  violations: [
    ...(['f16', 'i32', 'u8'] as DType[]).map((dtype) => ({
      title: `out of ${dtype}`,
      change: (bench: OpBench) => ({
        out: bench.empty(dtype, [3, 4]),
      }),
      says: /out must be f32 or bf16/,
    })),
    {
      title: 'strided rows',
      change: (bench) => ({ out: bench.empty('f32', [3, 4], 6) }),
      says: /out must be contiguous/,
    },
    {
      title: 'a packed weight of f32, which would be twice as large as it is stored',
      change: (bench) => ({
        out: new Tensor(bench.device.allocate(1 << 16), 'f32', [64, 8], { layout: 'linearWeight' }),
      }),
      says: /a packed weight must be bf16/,
    },
    { title: 'a negative std', change: () => ({ std: -1 }), says: /std must not be negative/ },
    { title: 'std NaN', change: () => ({ std: Number.NaN }), says: /std must not be negative/ },
    { title: 'a seed beyond 32 bits', change: () => ({ seed: 2 ** 31 }), says: /seed must be made of whole numbers/ },
    {
      title: 'a fractional seed',
      change: () => ({ seed: 0.5 }),
      says: /seed must be made of whole numbers .* found 0\.5/,
    },
  ],
});
