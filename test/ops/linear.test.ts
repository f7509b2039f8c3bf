import { assertSameInCompany } from '../support/company.js';
import { assertClose, assertSameBits } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import {
  activationsOf,
  type DeviceCase,
  devicesUnderTest,
  isCuda,
  type OpBench,
  reference,
  requireDevice,
  withBench,
} from '../support/opBench.js';
import { products } from '../support/opModels.js';
import { type Activation, afterRounding, heldAs, once, sumError } from '../support/precision.js';
import { invariantCompanies, splitBands } from '../support/splitBands.js';
import { uniforms } from '../support/uniforms.js';
import { assertRefused, refusalOf } from '../support/vectorLoads.js';

/** Parts of K as blocks, as what one block walks, in one part, and in parts of unequal length. */
const invariantShapes = [
  { T: 1, K: 1032, N: 70 },
  { T: 33, K: 1544, N: 129 },
  { T: 129, K: 2056, N: 75 },
  { T: 300, K: 1032, N: 139 },
  { T: 270, K: 72, N: 40 },
] as const;

interface Case {
  title: string;
  T: number;
  K: number;
  N: number;
  bias?: boolean;
  /** Default: the dtype of x. */
  out?: 'f32';
  /** Elements between rows beyond their length. */
  gap?: number;
  /** Default 0. */
  batchInvariant?: number;
}

const cases: Case[] = [
  { title: 'one of each', T: 1, K: 1, N: 1 },
  { title: 'no tokens', T: 0, K: 8, N: 16 },
  { title: 'one panel of rows exactly', T: 2, K: 2, N: 64, bias: true },
  { title: 'a panel and a row', T: 3, K: 3, N: 65, bias: true, out: 'f32' },
  { title: 'a row less than a panel, odd K', T: 2, K: 7, N: 63 },
  { title: 'nothing a multiple of anything', T: 5, K: 33, N: 101, bias: true },
  ...[4, 6, 7, 8, 11, 12, 13].map((T) => ({ title: `${T} tokens`, T, K: 18, N: 70 })),
  { title: 'strided rows', T: 7, K: 130, N: 129, bias: true, gap: 5 },
  { title: 'strided rows, f32 out, odd K', T: 7, K: 131, N: 30, out: 'f32', gap: 3 },
  { title: 'rows between multiples of 16 bytes', T: 3, K: 16, N: 20, gap: 3 },
  { title: 'strided rows at multiples of 16 bytes', T: 7, K: 136, N: 129, bias: true, gap: 8 },
  ...[8, 9, 16, 17, 32, 33].map((T) => ({ title: `${T} tokens, whole vectors`, T, K: 104, N: 50, bias: true })),
  { title: 'a long K of few rows', T: 5, K: 6152, N: 20, bias: true },
  { title: 'more tokens than a tile', T: 70, K: 72, N: 136, bias: true },
  { title: 'more tokens than a tile, strided rows', T: 70, K: 200, N: 70, bias: true, out: 'f32', gap: 8 },
  { title: 'a long K of a tile of tokens', T: 40, K: 1032, N: 70, bias: true },
  { title: 'a long K of a tile of tokens, strided rows', T: 64, K: 1544, N: 129, bias: true, out: 'f32', gap: 8 },
  { title: 'a long K of two tiles of tokens', T: 100, K: 1544, N: 80, out: 'f32' },
  { title: 'a long K of two tiles of rows', T: 128, K: 2056, N: 139, bias: true },
  { title: 'a long K of three tiles of tokens', T: 150, K: 2056, N: 75, bias: true },
  { title: 'many tokens and rows', T: 200, K: 40, N: 600, out: 'f32' },
  { title: 'more tiles of tokens than run together', T: 1100, K: 8, N: 136, bias: true },
  { title: 'a slice of columns exactly', T: 3, K: 1024, N: 20 },
  { title: 'a column beyond a slice', T: 3, K: 1025, N: 20 },
  { title: 'three slices of columns', T: 9, K: 2051, N: 66, bias: true },
  { title: 'more tokens than a panel is multiplied with at once', T: 520, K: 6, N: 70, bias: true },
  { title: 'qkv of 0.5B', T: 3, K: 896, N: 1152, bias: true },
  { title: 'down projection of 0.5B', T: 2, K: 4864, N: 896 },
  { title: 'LM head of 0.5B, some rows of it', T: 1, K: 896, N: 2000, out: 'f32' },
  { title: 'qkv of 7B, some rows of it', T: 3, K: 3584, N: 200, bias: true },
  { title: '72B, some rows of it', T: 2, K: 8192, N: 130 },
  { title: 'down projection of 72B, some rows of it', T: 1, K: 29568, N: 66 },
  ...invariantShapes.map((shape) => ({
    title: `batch-invariant, ${shape.T} tokens, K of ${shape.K}`,
    ...shape,
    bias: true,
    gap: 8,
    batchInvariant: 1,
  })),
];

interface Call extends Case {
  x: ArrayLike<number>;
  weight: Float64Array;
  biases: ArrayLike<number>;
}

const withValues = (given: Case): Call => ({
  ...given,
  x: uniforms(given.T * given.K, given.K),
  weight: heldAs('bf16', uniforms(given.N * given.K, given.N, 0.05)),
  biases: uniforms(given.bias ? given.N : 0, 7),
});

function packed(bench: OpBench, { K, N, weight }: Call) {
  const tensor = bench.weight('linearWeight', N, K);
  bench.run('linear_pack', { source: bench.from('bf16', [N, K], weight), weight: tensor, row_offset: 0 });
  return tensor;
}

function prepare(bench: OpBench, dtype: Activation, call: Call) {
  const { T, K, N, gap = 0 } = call;
  return {
    x: bench.from(dtype, [T, K], call.x, K + gap),
    weight: packed(bench, call),
    bias: call.bias ? bench.from('f32', [N], call.biases) : undefined,
    out: bench.empty(call.out ?? dtype, [T, N], N + 2 * gap),
    batch_invariant: call.batchInvariant ?? 0,
  };
}

for (const device of [reference, ...devicesUnderTest])
  describe(`linear on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const dtype of activationsOf(device))
      for (const given of cases) {
        const { title, K, N, out: outType = dtype } = given;
        it(`${title}: ${dtype}[${given.T}, ${K}] × [${N}, ${K}]ᵀ to ${outType}`, () =>
          withBench(device, async (bench) => {
            const { call, sums, magnitudes } = expectations(dtype, given)();
            const args = prepare(bench, dtype, call);
            bench.run('linear', args);
            const refusal = refusalOf(device, given);
            if (refusal) return assertRefused(bench, refusal);
            const expected = sums.map((sum, i) => sum + (call.biases[i % N] ?? 0));
            const magnitude = (i: number) => magnitudes[i]! + Math.abs(call.biases[i % N] ?? 0);
            assertClose(await bench.read(args.out), expected, (i) =>
              afterRounding(outType, expected[i]!, sumError(device, K) * magnitude(i)),
            );
            await bench.requireGapsUntouched(args.out);
          }));
      }
  });

/** Values of a call and what they give: made once for all devices. */
function expectations(dtype: Activation, given: Case) {
  const key = `${dtype} ${given.title}`;
  const known = expectationsByCase.get(key);
  if (known) return known;
  const made = once(() => {
    const call = withValues(given);
    return { call, ...products(heldAs(dtype, call.x), call.weight, call.K) };
  });
  expectationsByCase.set(key, made);
  return made;
}

const expectationsByCase = new Map<string, () => { call: Call; sums: Float64Array; magnitudes: Float64Array }>();

/** How a row's bits are compared: on which device, in which company. */
interface Company {
  device: DeviceCase;
  threads: readonly number[];
  T: number;
  K: number;
  N: number;
  batchInvariant?: number;
  /** First rows and numbers of rows that are multiplied alone. */
  parts: readonly (readonly [number, number])[];
}

const upTo32 = [
  [0, 1],
  [30, 1],
  [3, 2],
  [5, 3],
  [11, 4],
  [7, 5],
  [2, 6],
  [1, 7],
  [9, 13],
] as const;

const above32 = [
  [0, 33],
  [20, 64],
  [15, 65],
  [3, 129],
] as const;

const companies: Company[] = [
  ...['scalar', 'avx2', 'avx512'].flatMap((simd) =>
    [1101, 96].map((K) => ({
      device: { title: simd, name: 'cpu', simd },
      threads: [1, 2, 3, 7],
      T: 31,
      K,
      N: 130,
      parts: upTo32,
    })),
  ),
  // On CUDA sums are split over blocks where K is long, in a way for each band of T; where it is short, T of more than
  // 32 is one band.
  ...devicesUnderTest
    .filter(isCuda)
    .flatMap((device) => [
      { device, threads: [1], T: 31, K: 104, N: 34, parts: upTo32 },
      { device, threads: [1], T: 31, K: 4168, N: 34, parts: upTo32 },
      { device, threads: [1], T: 150, K: 104, N: 34, parts: above32 },
      ...splitBands.map((band) => ({ device, threads: [1], N: 70, ...band })),
    ]),
  ...devicesUnderTest
    .filter(isCuda)
    .flatMap((device) => invariantCompanies.map((shape) => ({ device, threads: [1], batchInvariant: 1, ...shape }))),
];

describe('linear', () => {
  for (const { device, threads, T, K, N, batchInvariant = 0, parts } of companies)
    it(`gives a row the same bits alone and in company, with any number of threads, on ${device.title}, T = ${T}, K = ${K}, batch_invariant ${batchInvariant}`, async function () {
      requireDevice(this, device);
      const call = withValues({ title: '', T, K, N, bias: true, out: 'f32', batchInvariant });
      await assertSameInCompany(device, { threads, T, parts }, (bench) => {
        const args = prepare(bench, 'bf16', call);
        return { ...args, run: (x, out) => bench.run('linear', { ...args, x, out }) };
      });
    });

  for (const device of devicesUnderTest.filter(isCuda))
    for (const T of [5, 40])
      it(`begins before the launch in front of it ends, but reads what that one writes: ${T} tokens on ${device.title}`, async function () {
        requireDevice(this, device);
        const N = 32;
        const call = withValues({ title: '', T, K: N, N });
        const twice = (apart: boolean) =>
          withBench(device, async (bench) => {
            const { x, weight, out } = prepare(bench, 'bf16', call);
            const second = bench.empty('bf16', [T, N]);
            bench.run('linear', { x, weight, bias: undefined, out, batch_invariant: 0 });
            if (apart) await bench.stream.synchronized();
            bench.run('linear', { x: out, weight, bias: undefined, out: second, batch_invariant: 0 });
            return await bench.read(second);
          });
        assertSameBits(await twice(false), await twice(true));
      });
});

/** Products of which sums are split over blocks: they share memory for partial sums, and counters. */
const split = [
  { T: 40, K: 1032, N: 70 },
  { T: 5, K: 4168, N: 20 },
  { T: 100, K: 1544, N: 80 },
  { T: 40, K: 1032, N: 70 },
  { T: 150, K: 2056, N: 75 },
];

describe('linear, one product behind another', () => {
  for (const device of devicesUnderTest.filter(isCuda))
    it(`keeps products apart that are split over blocks, on ${device.title}`, async function () {
      requireDevice(this, device);
      const calls = split.map((shape) => withValues({ title: '', ...shape, bias: true, out: 'f32' }));
      const multiply = (apart: boolean) =>
        withBench(device, async (bench) => {
          const all = calls.map((call) => prepare(bench, 'bf16', call));
          for (const args of all) {
            bench.run('linear', args);
            if (apart) await bench.stream.synchronized();
          }
          const results = [];
          for (const { out } of all) results.push(await bench.read(out));
          return results;
        });
      const [together, alone] = [await multiply(false), await multiply(true)];
      for (const [i, result] of together.entries()) assertSameBits(result, alone[i]!, `product ${i}`);
      assertSameBits(together[3]!, together[0]!);
    });
});

describeContract({
  op: 'linear',
  valid: (bench) => ({
    x: bench.from('bf16', [3, 4], uniforms(12, 1)),
    weight: packed(bench, withValues({ title: '', T: 0, K: 4, N: 6 })),
    bias: bench.from('f32', [6], uniforms(6, 2)),
    out: bench.empty('bf16', [3, 6]),
    batch_invariant: 0,
  }),
  violations: [
    {
      title: 'a weight of another K',
      change: (bench) => ({ weight: bench.weight('linearWeight', 6, 5) }),
      says: /weight must be \[N=6, K=4\]: K is set by x; got linear\(x bf16\[3, 4\], weight bf16\[6, 5\] packed, bias f32\[6\]/,
    },
    {
      title: 'the weight of swiglu',
      change: (bench) => ({ weight: bench.weight('swigluWeight', 6, 4) }),
      says: /weight must be a weight packed for this operation/,
    },
    {
      title: 'a bias of another size',
      change: (bench) => ({ bias: bench.empty('f32', [5]) }),
      says: /bias must be \[N=6\]: N is set by weight/,
    },
    { title: 'a bias of bf16', change: (bench) => ({ bias: bench.empty('bf16', [6]) }), says: /bias must be f32/ },
    {
      title: 'a bf16 out of an f32 x',
      change: (bench) => ({ x: bench.empty('f32', [3, 4]) }),
      says: /x and out must have the same dtype, they have f32 and bf16/,
    },
    {
      title: 'out that overlaps x',
      change: (bench) => {
        const both = bench.empty('bf16', [3, 9]);
        return { x: both.narrow(1, 0, 4), out: both.narrow(1, 3, 6) };
      },
      says: /out must not overlap x/,
    },
    { title: 'batch_invariant of 2', change: () => ({ batch_invariant: 2 }), says: /batch_invariant must be 0 or 1/ },
  ],
});
