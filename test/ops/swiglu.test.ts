import { assertSameInCompany } from '../support/company.js';
import { assertClose } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { fromF16 } from '../support/f16.js';
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
import { type Products, products, silu } from '../support/opModels.js';
import { type Activation, afterRounding, heldAs, sumError } from '../support/precision.js';
import { invariantCompanies, splitBands } from '../support/splitBands.js';
import { uniforms } from '../support/uniforms.js';
import { assertRefused, refusalOf } from '../support/vectorLoads.js';

interface Case {
  title: string;
  T: number;
  K: number;
  I: number;
  /** Of x. Default 1. */
  deviation?: number;
  /** Elements between rows beyond their length. */
  gap?: number;
  /** Of gate's and up's rows. Default bf16; in two parts each if a number of rows is given. */
  source?: { dtype: 'f32' | 'f16'; first: number };
  /** Default 0. */
  batchInvariant?: number;
}

const cases: Case[] = [
  { title: 'one of each', T: 1, K: 1, I: 1 },
  { title: 'no tokens', T: 0, K: 8, I: 16 },
  { title: 'half a panel, odd K', T: 3, K: 5, I: 31 },
  { title: 'half a panel of gate exactly', T: 2, K: 8, I: 32 },
  { title: 'a row beyond', T: 5, K: 17, I: 33 },
  { title: 'nothing a multiple of anything', T: 7, K: 131, I: 101, gap: 5 },
  { title: 'three slices of columns', T: 4, K: 2051, I: 65 },
  ...[1, 9, 17, 33].map((T) => ({ title: `${T} tokens, whole vectors`, T, K: 72, I: 37, gap: 8 })),
  { title: 'a long K of few rows', T: 5, K: 4168, I: 13 },
  { title: 'more tokens than a tile', T: 70, K: 136, I: 80 },
  { title: 'a long K of a tile of tokens', T: 40, K: 1032, I: 37 },
  { title: 'a long K of two tiles of tokens', T: 100, K: 1544, I: 37, gap: 8 },
  { title: 'a long K of two tiles of rows', T: 128, K: 2056, I: 69 },
  { title: 'a long K of three tiles of tokens', T: 150, K: 2056, I: 37 },
  { title: 'many tokens and rows', T: 200, K: 40, I: 300 },
  { title: 'f32 weights in parts, whole vectors', T: 3, K: 24, I: 100, source: { dtype: 'f32', first: 45 } },
  { title: 'more tokens than a panel is multiplied with at once', T: 520, K: 4, I: 40 },
  { title: 'gates far from zero', T: 6, K: 60, I: 70, deviation: 300 },
  { title: 'gates far from zero, whole vectors', T: 6, K: 64, I: 70, deviation: 300 },
  { title: 'f32 weights in parts', T: 3, K: 21, I: 100, source: { dtype: 'f32', first: 45 } },
  { title: 'f16 weights in parts', T: 3, K: 22, I: 70, source: { dtype: 'f16', first: 33 } },
  { title: '0.5B', T: 2, K: 896, I: 4864 },
  { title: '7B, some rows of it', T: 2, K: 3584, I: 150 },
  { title: '72B, some rows of it', T: 2, K: 8192, I: 70 },
  { title: 'batch-invariant, parts of K as blocks', T: 33, K: 1544, I: 70, batchInvariant: 1 },
  { title: 'batch-invariant, parts of K as a block walks them', T: 270, K: 1032, I: 37, gap: 8, batchInvariant: 1 },
];

/** f16 bits of finite numbers below 1, subnormals among them. */
const halves = (size: number, seed: number) =>
  Uint16Array.from(uniforms(size, seed), (x) => (Math.floor(Math.abs(x) * 1e4) % 0x3c00) | (x < 0 ? 0x8000 : 0));

interface Call extends Case {
  x: ArrayLike<number>;
  parts: readonly [ArrayLike<number>, ArrayLike<number>];
}

function withValues(given: Case): Call {
  const size = given.I * given.K;
  const part = (seed: number) => (given.source?.dtype === 'f16' ? halves(size, seed) : uniforms(size, seed, 0.1));
  return { ...given, x: uniforms(given.T * given.K, given.K, given.deviation), parts: [part(1), part(2)] };
}

function packed(bench: OpBench, { K, I, parts, source }: Call) {
  const weight = bench.weight('swigluWeight', 2 * I, K);
  const { dtype = 'bf16', first = I } = source ?? {};
  for (const [part, values] of parts.entries()) {
    const whole = bench.from(dtype, [I, K], values);
    for (const [row_offset, rows] of [
      [0, first],
      [first, I - first],
    ] as const)
      bench.run('swiglu_pack', { source: whole.narrow(0, row_offset, rows), weight, part, row_offset });
  }
  return weight;
}

function prepare(bench: OpBench, dtype: Activation, call: Call) {
  const { T, K, I, gap = 0 } = call;
  return {
    x: bench.from(dtype, [T, K], call.x, K + gap),
    weight: packed(bench, call),
    out: bench.empty(dtype, [T, I], I + 2 * gap),
    batch_invariant: call.batchInvariant ?? 0,
  };
}

/** Values of a call, and gate's and up's products: made once for all devices. */
function expectations(dtype: Activation, given: Case) {
  const key = `${dtype} ${given.title}`;
  let made = expectationsByCase.get(key);
  if (made === undefined) {
    const call = withValues(given);
    const x = heldAs(dtype, call.x);
    const [gate, up] = call.parts.map((part) => {
      const numbers = part instanceof Uint16Array ? Float64Array.from(part, fromF16) : part;
      return products(x, heldAs('bf16', numbers), call.K);
    }) as [Products, Products];
    made = { call, gate, up };
    expectationsByCase.set(key, made);
  }
  return made;
}

const expectationsByCase = new Map<string, { call: Call; gate: Products; up: Products }>();

/** What out may be off by: the errors of both sums carried through silu (of slope 1.1 at most), and a few fp32 steps. */
function tolerance(device: DeviceCase, dtype: Activation, { gate, up }: { gate: Products; up: Products }, K: number) {
  return (i: number) => {
    const [g, u] = [gate.sums[i]!, up.sums[i]!];
    const gateError = 1.1 * sumError(device, K) * gate.magnitudes[i]!;
    const upError = sumError(device, K) * up.magnitudes[i]!;
    const carried = gateError * Math.abs(u) + upError * Math.abs(silu(g)) + gateError * upError;
    // e⁸⁸ is the largest divisor.
    const steps = 2 ** -21 * Math.abs(silu(g) * u) + Math.abs(g * u) * Math.exp(-88);
    return afterRounding(dtype, silu(g) * u, carried + steps);
  };
}

for (const device of [reference, ...devicesUnderTest])
  describe(`swiglu on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const dtype of activationsOf(device))
      for (const given of cases)
        it(`${given.title}: ${dtype}[${given.T}, ${given.K}] × 2·[${given.I}, ${given.K}]ᵀ`, () =>
          withBench(device, async (bench) => {
            const expected = expectations(dtype, given);
            const args = prepare(bench, dtype, expected.call);
            bench.run('swiglu', args);
            const refusal = refusalOf(device, given);
            if (refusal) return assertRefused(bench, refusal);
            const values = expected.gate.sums.map((g, i) => silu(g) * expected.up.sums[i]!);
            assertClose(await bench.read(args.out), values, tolerance(device, dtype, expected, given.K));
            await bench.requireGapsUntouched(args.out);
          }));
  });

/** How a row's bits are compared: on which device, in which company. */
interface Company {
  device: DeviceCase;
  threads: readonly number[];
  T: number;
  K: number;
  I: number;
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
  [9, 13],
] as const;

const above32 = [
  [0, 33],
  [20, 64],
  [15, 65],
  [3, 129],
] as const;

const companies: Company[] = [
  ...['scalar', 'avx2', 'avx512'].map((simd) => ({
    device: { title: simd, name: 'cpu', simd },
    threads: [1, 2, 3, 7],
    T: 31,
    K: 301,
    I: 1000,
    parts: upTo32,
  })),
  // On CUDA sums are split over blocks where K is long, in a way for each band of T; where it is short, T of more than
  // 32 is one band.
  ...devicesUnderTest.filter(isCuda).flatMap((device) => [
    { device, threads: [1], T: 31, K: 104, I: 20, parts: upTo32 },
    { device, threads: [1], T: 31, K: 4168, I: 20, parts: upTo32 },
    { device, threads: [1], T: 150, K: 104, I: 100, parts: above32 },
    ...splitBands.map((band) => ({ device, threads: [1], I: 37, ...band })),
    ...invariantCompanies.map(({ N, ...rest }) => ({
      ...{ device, threads: [1], batchInvariant: 1, I: Math.ceil(N / 2), ...rest },
    })),
  ]),
];

describe('swiglu', () => {
  for (const { device, threads, T, K, I, batchInvariant = 0, parts } of companies)
    it(`gives a row the same bits alone and in company, with any number of threads, on ${device.title}, T = ${T}, K = ${K}, batch_invariant ${batchInvariant}`, async function () {
      requireDevice(this, device);
      const call = cancelling(withValues({ title: '', T, K, I, batchInvariant }));
      await assertSameInCompany(device, { threads, T, parts }, (bench) => {
        const args = prepare(bench, 'bf16', call);
        return { ...args, run: (x, out) => bench.run('swiglu', { ...args, x, out }) };
      });
    });
});

/**
 * The call with values for which up's products all but cancel: fp32 sums in another order then show after the rounding to
 * bf16.
 */
function cancelling(call: Call): Call {
  const { T, K, I, parts } = call;
  const half = Math.floor(K / 2);
  const x = Float32Array.from(call.x);
  const up = Float32Array.from(parts[1]);
  for (let t = 0; t < T; t++) for (let k = 0; k < half; k++) x[t * K + half + k] = x[t * K + k]! * (1 + (k % 5) / 64);
  for (let i = 0; i < I; i++) for (let k = 0; k < half; k++) up[i * K + half + k] = -up[i * K + k]!;
  for (let i = 0; i < I; i++) for (let k = 2 * half; k < K; k++) up[i * K + k] = 0;
  return { ...call, x, parts: [parts[0], up] };
}

describeContract({
  op: 'swiglu',
  valid: (bench) => ({
    x: bench.from('bf16', [3, 4], uniforms(12, 1)),
    weight: packed(bench, withValues({ title: '', T: 0, K: 4, I: 6 })),
    out: bench.empty('bf16', [3, 6]),
    batch_invariant: 0,
  }),
  violations: [
    {
      title: 'a weight of another K',
      change: (bench) => ({ weight: bench.weight('swigluWeight', 12, 5) }),
      says: /weight must be \[2·I=12, K=4\]: K is set by x/,
    },
    {
      title: 'a weight of as many rows as out has columns',
      change: (bench) => ({ weight: bench.weight('swigluWeight', 6, 4) }),
      says: /weight must have two rows for each column of out/,
    },
    {
      title: 'the weight of linear',
      change: (bench) => ({ weight: bench.weight('linearWeight', 12, 4) }),
      says: /weight must be a weight packed for this operation/,
    },
    {
      title: 'out of another dtype than x',
      change: (bench) => ({ out: bench.empty('f32', [3, 6]) }),
      says: /x and out must have the same dtype, they have bf16 and f32/,
    },
    {
      title: 'out that overlaps x',
      change: (bench) => {
        const both = bench.empty('bf16', [3, 9]);
        return { x: both.narrow(1, 5, 4), out: both.narrow(1, 0, 6) };
      },
      says: /out must not overlap x/,
    },
    { title: 'batch_invariant of 2', change: () => ({ batch_invariant: 2 }), says: /batch_invariant must be 0 or 1/ },
  ],
});

const rows = /rows row_offset … row_offset \+ R must lie within the I rows of the part/;

describeContract({
  op: 'swiglu_pack',
  valid: (bench) => ({
    source: bench.from('f32', [2, 4], uniforms(8, 1)),
    weight: bench.weight('swigluWeight', 12, 4),
    part: 1,
    row_offset: 4,
  }),
  free: ['weight.0'],
  violations: [
    { title: 'rows past the end of the part', change: () => ({ row_offset: 5 }), says: rows },
    { title: 'rows of gate that end in up', change: () => ({ part: 0, row_offset: 5 }), says: rows },
    { title: 'rows before the start', change: () => ({ row_offset: -1 }), says: rows },
    { title: 'a third part', change: () => ({ part: 2 }), says: /part must be 0 \(gate\) or 1 \(up\)/ },
    { title: 'part −1', change: () => ({ part: -1 }), says: /part must be 0 \(gate\) or 1 \(up\)/ },
    {
      title: 'a weight of an odd number of rows',
      change: (bench) => ({ weight: bench.weight('swigluWeight', 13, 4) }),
      says: /weight must have an even number of rows/,
    },
    {
      title: 'the weight of linear',
      change: (bench) => ({ weight: bench.weight('linearWeight', 12, 4) }),
      says: /weight must be a weight packed for this operation/,
    },
  ],
});
