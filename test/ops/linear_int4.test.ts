import { assertSameInCompany } from '../support/company.js';
import { assertSameBits } from '../support/compare.js';
import {
  dequantized,
  everyInt4Format,
  type Int4Format,
  type Int4Matrix,
  type Int4Values,
  int4Weight,
  randomInt4,
} from '../support/int4Formats.js';
import {
  type DeviceCase,
  devicesUnderTest,
  isCuda,
  type OpBench,
  requireDevice,
  withBench,
} from '../support/opBench.js';
import { type Activation, heldAs, perCase } from '../support/precision.js';
import { describeQuantizedLinear } from '../support/quantizedLinear.js';
import { quantizedProducts, rowsOf31, rowsOf150 } from '../support/quantizedProducts.js';
import { splitBands } from '../support/splitBands.js';
import { permutation, uniforms } from '../support/uniforms.js';

interface Case {
  title: string;
  T: number;
  K: number;
  /** Of the weight, or of the matrices that it is packed of. */
  N: number | readonly number[];
  /** Columns that share a scale in the weight. Default 32. */
  group?: number;
  /** Columns that share a scale in the checkpoint. Default: as in the weight. */
  sourceGroup?: number;
  /** Default awq. */
  format?: Int4Format;
  /** Columns of the checkpoint are in random order. */
  actOrder?: boolean;
  values?: Int4Values;
  bias?: boolean;
  /** Default: the dtype of x. */
  out?: 'f32';
  /** Elements between rows of x and out beyond their length. */
  gap?: number;
  /** What becomes of an element of x. */
  x?: (value: number, k: number) => number;
}

const formatOf = (i: number): Int4Format => everyInt4Format[i % everyInt4Format.length]!;

/** Bits of f16. */
const negative = 0x8000;

const cases: Case[] = [
  { title: 'one group of eight rows', T: 1, K: 32, N: 8 },
  { title: 'no tokens', T: 0, K: 32, N: 16 },
  ...[1, 2, 5, 8, 9, 16, 17, 32, 33, 64, 65, 100, 128, 150, 300].map((T, i) => ({
    title: `${T} tokens`,
    ...{ T, K: 160, N: 72, format: formatOf(i), bias: T % 2 === 1 },
  })),
  ...[1, 17, 100].map((T) => ({ title: `${T} tokens, f32 out`, T, K: 96, N: 40, out: 'f32' as const, bias: true })),
  ...[1, 33, 65].map((T, i) => ({
    title: `${T} tokens, an odd number of groups of 128`,
    ...{ T, K: 384, N: 136, group: 128, format: formatOf(i) },
  })),
  ...[2, 40, 128].map((T, i) => ({
    title: `${T} tokens, a long K of groups of 64`,
    ...{ T, K: 1984, N: 24, group: 64, format: formatOf(i), bias: true },
  })),
  { title: 'a long K of groups of 32', T: 5, K: 1056, N: 200 },
  { title: 'strided rows', T: 7, K: 96, N: 24, gap: 5, bias: true },
  { title: 'strided rows at multiples of 16 bytes', T: 7, K: 96, N: 24, gap: 8, bias: true },
  { title: 'strided rows of many tokens', T: 70, K: 192, N: 72, group: 64, gap: 8, out: 'f32' },
  { title: 'q, k and v as one weight', T: 3, K: 128, N: [56, 8, 16], group: 64, format: 'gptq', bias: true },
  { title: 'two matrices, a bound within a tile', T: 40, K: 96, N: [72, 96] },
  ...everyInt4Format.flatMap((format) => [
    {
      title: `every q, ${format}`,
      ...{ T: 3, K: 64, N: 16, format, values: { q: (n: number, k: number) => (n + k) % 16 } },
    },
    { title: `act order, ${format}`, T: 3, K: 160, N: 24, format, actOrder: true },
    {
      title: `act order, longer groups in the checkpoint, ${format}`,
      ...{ T: 9, K: 384, N: 40, sourceGroup: 128, format, actOrder: true },
    },
    { title: `one group of all columns, ${format}`, T: 2, K: 160, N: 24, sourceGroup: 160, format },
    { title: `zeros of 15, ${format}`, T: 20, K: 96, N: 24, format, values: { zero: () => 15 } },
  ]),
  { title: 'groups of twice the length in the checkpoint', T: 17, K: 384, N: 72, group: 64, sourceGroup: 128 },
  { title: 'zeros of 0, AWQ', T: 20, K: 96, N: 24, values: { zero: () => 0 } },
  { title: 'zeros of 0, GPTQ v2', T: 2, K: 96, N: 24, format: 'gptqV2', values: { zero: () => 0 } },
  { title: 'zeros of 16', T: 2, K: 96, N: 24, format: 'gptq', values: { zero: () => 16 } },
  { title: 'zeros of 16, many tokens', T: 70, K: 96, N: 24, format: 'gptq', values: { zero: () => 16 } },
  {
    title: 'zeros from 1 to 16, many tokens',
    ...{ T: 33, K: 160, N: 24, format: 'gptq', values: { zero: (n: number, g: number) => 1 + ((n + g) % 16) } },
  },
  ...[1, 33].flatMap((T) => [
    {
      title: `scales of both signs, ${T} tokens`,
      ...{ T, K: 96, N: 24, values: { scale: (n: number, g: number) => 0x2400 + ((n + g) % 2) * negative } },
    },
    {
      title: `scales below the normal numbers of f16, ${T} tokens`,
      ...{ T, K: 96, N: 24, values: { scale: (n: number, g: number) => ((7 * n + g) % 1023) + 1 } },
    },
    {
      title: `scales of zero, ${T} tokens`,
      ...{ T, K: 96, N: 24, values: { scale: (n: number, g: number) => (n % 3 === 0 || g === 1 ? 0 : 0x2400) } },
    },
    {
      title: `an outlier in each group of x, ${T} tokens`,
      ...{ T, K: 96, N: 24, x: (value: number, k: number) => (k % 32 === 7 ? 1000 * value : value) },
    },
    {
      title: `groups of zeros in x, ${T} tokens`,
      ...{ T, K: 192, N: 24, x: (value: number, k: number) => (k < 64 ? 0 : value) },
    },
  ]),
  { title: 'more tokens than a panel is multiplied with at once', T: 520, K: 64, N: 72, bias: true },
  { title: 'x of zeros', T: 2, K: 64, N: 16, x: () => 0, bias: true },
  { title: 'the largest scales', T: 2, K: 64, N: 16, values: { scale: () => 0x7bff } },
  { title: 'qkv of 0.5B', T: 3, K: 896, N: [896, 128, 128], group: 128, bias: true },
  { title: 'down projection of 0.5B, some rows of it', T: 2, K: 4864, N: 200, group: 128, format: 'gptq' },
  { title: 'qkv of 7B, some rows of it', T: 3, K: 3584, N: 200, group: 128, bias: true },
  { title: 'down projection of 7B, some rows of it', T: 9, K: 18944, N: 16, group: 128 },
  { title: '72B, some rows of it', T: 2, K: 8192, N: 136, group: 128, format: 'gptq' },
  { title: 'down projection of 72B, padded, some rows of it', T: 1, K: 29696, N: 72, group: 128 },
  { title: 'down projection of 72B, padded, 33 tokens', T: 33, K: 29696, N: 8, group: 128 },
];

interface Call extends Case {
  group: number;
  rows: number;
  activations: Float32Array;
  parts: readonly { format: Int4Format; matrix: Int4Matrix; columns?: readonly number[] | undefined }[];
  biases: Float32Array;
}

function withValues(given: Case): Call {
  const { T, K, N, group = 32, sourceGroup = group, format = 'awq', actOrder, x = (value) => value } = given;
  const parts = [N].flat().map((n, i) => ({
    format,
    matrix: randomInt4(n, K, K / sourceGroup, i + n, given.values),
    columns: actOrder ? permutation(K, i) : undefined,
  }));
  const rows = parts.reduce((sum, { matrix }) => sum + matrix.N, 0);
  return {
    ...given,
    ...{ group, rows, parts },
    activations: uniforms(T * K, K).map((value, i) => x(value, i % K)),
    biases: uniforms(given.bias ? rows : 0, 7),
  };
}

function prepare(bench: OpBench, dtype: Activation, call: Call) {
  const { T, K, rows, group, parts, gap = 0 } = call;
  return {
    x: bench.from(dtype, [T, K], call.activations, K + gap),
    weight: int4Weight(bench, group, parts),
    bias: call.bias ? bench.from('f32', [rows], call.biases) : undefined,
    out: bench.empty(call.out ?? dtype, [T, rows], rows + 2 * gap),
  };
}

/** Values of a call and what they give, the bias added: made once for all devices. */
const expectations = perCase((dtype: Activation, given: Case) => {
  const call = withValues(given);
  const numbers = dequantized(call.parts.map(({ matrix }) => matrix));
  const products = quantizedProducts(heldAs(dtype, call.activations), numbers, call.K, call.group);
  const bias = (i: number) => call.biases[i % call.rows] ?? 0;
  return {
    call,
    expected: products.sums.map((sum, i) => sum + bias(i)),
    products: { ...products, magnitudes: products.magnitudes.map((size, i) => size + Math.abs(bias(i))) },
  };
});

describeQuantizedLinear({ op: 'linear_int4', cases, withValues, prepare, expectations });

/** How a row's bits are compared: on which device, in which company. */
interface Company {
  device: DeviceCase;
  threads: readonly number[];
  exact: number;
  batchInvariant: number;
  group?: number;
  T: number;
  K: number;
  N: number;
  /** First rows and numbers of rows that are multiplied alone. */
  parts: readonly (readonly [number, number])[];
}

const companies: Company[] = [
  ...['scalar', 'avx2', 'avx512'].flatMap((simd) =>
    [0, 1].map((exact) => ({
      device: { title: simd, name: 'cpu', simd },
      ...{ threads: [1, 2, 3, 7], exact, batchInvariant: 0, T: 150, K: 1056, N: 136, parts: rowsOf150 },
    })),
  ),
  // On CUDA sums are split over blocks where K is long, in a way for each band of T, unless they are to be invariant.
  ...devicesUnderTest.filter(isCuda).flatMap((device) => [
    ...[96, 4224].map((K) => ({
      device,
      ...{ threads: [1], exact: 1, batchInvariant: 1, T: 150, K, N: 40, parts: rowsOf150 },
    })),
    ...[32, 128].map((group) => ({
      ...{ device, group, threads: [1], exact: 1, batchInvariant: 0, T: 31, K: 4224, N: 40, parts: rowsOf31 },
    })),
    ...splitBands.map(({ T, K, parts }) => ({
      device,
      ...{ threads: [1], exact: 1, batchInvariant: 0, T, K: 32 * Math.ceil(K / 32), N: 72, parts },
    })),
  ]),
];

describe('linear_int4', () => {
  for (const { device, threads, exact, batchInvariant, group = 32, T, K, N, parts } of companies)
    it(`gives a row the same bits alone and in company, with any number of threads, on ${device.title}, T = ${T}, K = ${K}, exact ${exact}`, async function () {
      requireDevice(this, device);
      const call = withValues({ title: '', T, K, N, group, bias: true, out: 'f32' });
      await assertSameInCompany(device, { threads, T, parts }, (bench) => {
        const args = prepare(bench, 'bf16', call);
        return {
          ...args,
          run: (x, out) => bench.run('linear_int4', { ...args, x, out, exact, batch_invariant: batchInvariant }),
        };
      });
    });

  for (const device of devicesUnderTest.filter(isCuda)) {
    for (const T of [5, 40])
      it(`begins before the launch in front of it ends, but reads what that one writes: ${T} tokens on ${device.title}`, async function () {
        requireDevice(this, device);
        const N = 32;
        const call = withValues({ title: '', T, K: N, N });
        const twice = (apart: boolean) =>
          withBench(device, async (bench) => {
            const args = { ...prepare(bench, 'bf16', call), exact: 1, batch_invariant: 0 };
            const second = bench.empty('bf16', [T, N]);
            bench.run('linear_int4', args);
            if (apart) await bench.stream.synchronized();
            bench.run('linear_int4', { ...args, x: args.out, out: second });
            return await bench.read(second);
          });
        assertSameBits(await twice(false), await twice(true));
      });

    it(`keeps products apart that are split over blocks, on ${device.title}`, async function () {
      requireDevice(this, device);
      const calls = split.map((shape) => withValues({ title: '', ...shape, bias: true, out: 'f32' }));
      const multiply = (apart: boolean) =>
        withBench(device, async (bench) => {
          const all = calls.map((call) => ({ ...prepare(bench, 'bf16', call), exact: 1, batch_invariant: 0 }));
          for (const args of all) {
            bench.run('linear_int4', args);
            if (apart) await bench.stream.synchronized();
          }
          const results = [];
          for (const { out } of all) results.push(await bench.read(out));
          return results;
        });
      const [together, alone] = [await multiply(false), await multiply(true)];
      for (const [i, result] of together.entries()) assertSameBits(result, alone[i]!, `product ${i}`);
      assertSameBits(together.at(-1)!, together[0]!);
    });
  }
});

/** Products of which sums may be split over blocks: they share memory for partial sums, and counters. */
const split = [
  { T: 1, K: 4224, N: 24 },
  { T: 40, K: 1056, N: 72 },
  { T: 100, K: 1568, N: 40 },
  { T: 1, K: 4224, N: 24 },
];
