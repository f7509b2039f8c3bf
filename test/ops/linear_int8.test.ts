import { assertSameInCompany } from '../support/company.js';
import { describeContract } from '../support/contract.js';
import { int8Weight, roundedToInt8 } from '../support/int8Weights.js';
import { type DeviceCase, devicesUnderTest, isCuda, type OpBench, requireDevice } from '../support/opBench.js';
import { type Activation, heldAs, perCase } from '../support/precision.js';
import { describeQuantizedLinear } from '../support/quantizedLinear.js';
import { quantizedProducts, rowsOf150 } from '../support/quantizedProducts.js';
import { uniforms } from '../support/uniforms.js';

interface Case {
  title: string;
  T: number;
  K: number;
  N: number;
  /** Columns that share a scale. Default 32. */
  group?: number;
  bias?: boolean;
  /** Default: the dtype of x. */
  out?: 'f32';
  /** Elements between rows of x and out beyond their length. */
  gap?: number;
  /** What becomes of an element of x, or of the weight. */
  x?: (value: number, k: number) => number;
  weight?: (value: number, n: number, k: number) => number;
}

const cases: Case[] = [
  { title: 'one group of one row', T: 1, K: 32, N: 1 },
  { title: 'no tokens', T: 0, K: 32, N: 16 },
  ...[1, 2, 5, 8, 9, 16, 17, 32, 33, 64, 65, 100, 128, 150, 300].map((T) => ({
    title: `${T} tokens`,
    ...{ T, K: 160, N: 71, bias: T % 2 === 1 },
  })),
  ...[1, 17, 100].map((T) => ({ title: `${T} tokens, f32 out`, T, K: 96, N: 37, out: 'f32' as const, bias: true })),
  ...[1, 33, 65].map((T) => ({
    title: `${T} tokens, an odd number of groups of 128`,
    ...{ T, K: 384, N: 130, group: 128 },
  })),
  ...[2, 40].map((T) => ({ title: `${T} tokens, a long K of groups of 64`, T, K: 1984, N: 23, group: 64 })),
  { title: 'more tokens than a panel is multiplied with at once', T: 520, K: 64, N: 70, bias: true },
  { title: 'a row less than a panel', T: 2, K: 64, N: 63 },
  { title: 'strided rows', T: 7, K: 96, N: 25, gap: 5, bias: true },
  { title: 'strided rows at multiples of 16 bytes', T: 7, K: 96, N: 25, gap: 8, bias: true },
  { title: 'strided rows of many tokens', T: 70, K: 192, N: 66, group: 64, gap: 8, out: 'f32' },
  ...[1, 33].flatMap((T) => [
    {
      title: `an outlier in each group of x, ${T} tokens`,
      ...{ T, K: 96, N: 24, x: (value: number, k: number) => (k % 32 === 7 ? 1000 * value : value) },
    },
    {
      title: `groups of zeros in x, ${T} tokens`,
      ...{ T, K: 96, N: 24, x: (value: number, k: number) => (k < 64 ? 0 : value) },
    },
    {
      title: `the largest q, of both signs, ${T} tokens`,
      ...{ T, K: 96, N: 24, weight: (_: number, n: number, k: number) => ((n * k) % 3 === 0 ? -1 : 1) },
    },
    {
      title: `groups of zeros in the weight, ${T} tokens`,
      ...{ T, K: 96, N: 24, weight: (value: number, n: number, k: number) => (n % 2 === 0 && k < 32 ? 0 : value) },
    },
    {
      title: `scales below the normal numbers of f16, ${T} tokens`,
      ...{ T, K: 96, N: 24, weight: (value: number, n: number) => value * 2 ** -(8 + (n % 8)) },
    },
  ]),
  { title: 'LM head of 0.5B, some rows of it', T: 1, K: 896, N: 2000, group: 128, out: 'f32' },
  { title: 'LM head of 7B, some rows of it', T: 3, K: 3584, N: 200, group: 128, out: 'f32' },
  { title: 'LM head of 72B, some rows of it', T: 2, K: 8192, N: 130, group: 128, out: 'f32' },
];

interface Call extends Case {
  group: number;
  activations: Float32Array;
  source: Float32Array;
  biases: Float32Array;
}

function withValues(given: Case): Call {
  const { T, K, N, group = 32, x = (value) => value, weight = (value) => value } = given;
  return {
    ...given,
    group,
    activations: uniforms(T * K, K).map((value, i) => x(value, i % K)),
    source: uniforms(N * K, N, 0.05).map((value, i) => weight(value, Math.floor(i / K), i % K)),
    biases: uniforms(given.bias ? N : 0, 7),
  };
}

function prepare(bench: OpBench, dtype: Activation, call: Call) {
  const { T, K, N, group, gap = 0 } = call;
  return {
    x: bench.from(dtype, [T, K], call.activations, K + gap),
    weight: int8Weight(bench, N, K, group, call.source),
    bias: call.bias ? bench.from('f32', [N], call.biases) : undefined,
    out: bench.empty(call.out ?? dtype, [T, N], N + 2 * gap),
  };
}

/** Values of a call and what they give, the bias added: made once for all devices. */
const expectations = perCase((dtype: Activation, given: Case) => {
  const call = withValues(given);
  const numbers = roundedToInt8(call.source, call.group);
  const products = quantizedProducts(heldAs(dtype, call.activations), numbers, call.K, call.group);
  const bias = (i: number) => call.biases[i % call.N] ?? 0;
  return {
    call,
    expected: products.sums.map((sum, i) => sum + bias(i)),
    products: { ...products, magnitudes: products.magnitudes.map((size, i) => size + Math.abs(bias(i))) },
  };
});

describeQuantizedLinear({ op: 'linear_int8', cases, withValues, prepare, expectations });

/** How a row's bits are compared: on which device, in which company. */
interface Company {
  device: DeviceCase;
  threads: readonly number[];
  exact: number;
  T: number;
  K: number;
  N: number;
}

const companies: Company[] = [
  ...['scalar', 'avx2', 'avx512'].flatMap((simd) =>
    [0, 1].map((exact) => ({
      device: { title: simd, name: 'cpu', simd },
      ...{ threads: [1, 2, 3, 7], exact, T: 150, K: 1056, N: 130 },
    })),
  ),
  ...devicesUnderTest
    .filter(isCuda)
    .flatMap((device) => [96, 4224].map((K) => ({ device, threads: [1], exact: 1, T: 150, K, N: 37 }))),
];

describe('linear_int8', () => {
  for (const { device, threads, exact, T, K, N } of companies)
    it(`gives a row the same bits alone and in company, with any number of threads, on ${device.title}, K = ${K}, exact ${exact}`, async function () {
      requireDevice(this, device);
      const call = withValues({ title: '', T, K, N, bias: true, out: 'f32' });
      await assertSameInCompany(device, { threads, T, parts: rowsOf150 }, (bench) => {
        const args = prepare(bench, 'bf16', call);
        return { ...args, run: (x, out) => bench.run('linear_int8', { ...args, x, out, exact, batch_invariant: 1 }) };
      });
    });
});

describeContract({
  op: 'linear_int8',
  valid: (bench) => ({
    x: bench.from('bf16', [3, 64], uniforms(192, 1)),
    weight: int8Weight(bench, 6, 64, 32, uniforms(384, 2)),
    bias: bench.from('f32', [6], uniforms(6, 2)),
    out: bench.empty('bf16', [3, 6]),
    exact: 1,
    batch_invariant: 0,
  }),
  violations: [
    {
      title: 'a weight of another K',
      change: (bench) => ({ weight: bench.weight('linearWeight', 6, 96, { dtype: 'int8', group: 32 }) }),
      says: /weight must be \[N=6, K=64\]: K is set by x; got linear_int8\(x bf16\[3, 64\], weight int8\[6, 96\] in groups of 32 packed/,
    },
    {
      title: 'the weight of linear_int4',
      change: (bench) => ({ weight: bench.weight('linearWeight', 8, 64, { dtype: 'int4', group: 32 }) }),
      says: /weight must be int8/,
    },
    {
      title: 'the weight of linear',
      change: (bench) => ({ weight: bench.weight('linearWeight', 6, 64) }),
      says: /weight must be int8/,
    },
    { title: 'exact of 2', change: () => ({ exact: 2 }), says: /exact must be 0 or 1/ },
    { title: 'batch_invariant of 2', change: () => ({ batch_invariant: 2 }), says: /batch_invariant must be 0 or 1/ },
    {
      title: 'a bias of another size',
      change: (bench) => ({ bias: bench.empty('f32', [5]) }),
      says: /bias must be \[N=6\]: N is set by weight/,
    },
    {
      title: 'a bf16 out of an f32 x',
      change: (bench) => ({ x: bench.empty('f32', [3, 64]) }),
      says: /x and out must have the same dtype, they have f32 and bf16/,
    },
    {
      title: 'out that overlaps x',
      change: (bench) => {
        const both = bench.empty('bf16', [3, 69]);
        return { x: both.narrow(1, 0, 64), out: both.narrow(1, 63, 6) };
      },
      says: /out must not overlap x/,
    },
  ],
});
