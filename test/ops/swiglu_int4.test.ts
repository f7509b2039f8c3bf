import assert from 'node:assert/strict';
import { assertSameInCompany } from '../support/company.js';
import { assertClose } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import {
  dequantized,
  everyInt4Format,
  type Int4Format,
  type Int4Matrix,
  int4Source,
  randomInt4,
} from '../support/int4Formats.js';
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
import { silu } from '../support/opModels.js';
import { type Activation, heldAs, perCase } from '../support/precision.js';
import {
  assertPrecise,
  exactnessOf,
  type QuantizedProducts,
  quantizedProducts,
  rowsOf150,
  sumErrors,
} from '../support/quantizedProducts.js';
import { permutation, uniforms } from '../support/uniforms.js';
import { assertRefused, refusalOf } from '../support/vectorLoads.js';

interface Case {
  title: string;
  T: number;
  K: number;
  /** Of gate and up, or of the matrices that each of them is packed of. */
  I: number | readonly number[];
  /** Columns that share a scale in the weight. Default 32. */
  group?: number;
  /** Columns that share a scale in the checkpoint. Default: as in the weight. */
  sourceGroup?: number;
  /** Default awq. */
  format?: Int4Format;
  /** Columns of the checkpoint are in random order, the same for gate and up. */
  actOrder?: boolean;
  /** Of x. Default 1. */
  deviation?: number;
  /** Elements between rows of x and out beyond their length. */
  gap?: number;
}

const formatOf = (i: number): Int4Format => everyInt4Format[i % everyInt4Format.length]!;

const cases: Case[] = [
  { title: 'one group of eight rows', T: 1, K: 32, I: 8 },
  { title: 'no tokens', T: 0, K: 32, I: 16 },
  ...[1, 2, 5, 8, 9, 16, 17, 32, 33, 64, 65, 100, 128, 150, 300].map((T, i) => ({
    title: `${T} tokens`,
    ...{ T, K: 160, I: 40, format: formatOf(i) },
  })),
  { title: 'half a panel of gate exactly', T: 2, K: 96, I: 32 },
  ...[1, 33, 65].map((T, i) => ({
    title: `${T} tokens, an odd number of groups of 128`,
    ...{ T, K: 384, I: 72, group: 128, format: formatOf(i) },
  })),
  ...[2, 40].map((T) => ({ title: `${T} tokens, a long K of groups of 64`, T, K: 1984, I: 24, group: 64 })),
  { title: 'strided rows', T: 7, K: 96, I: 24, gap: 5 },
  { title: 'strided rows at multiples of 16 bytes', T: 7, K: 96, I: 24, gap: 8 },
  { title: 'strided rows of many tokens', T: 70, K: 192, I: 72, group: 64, gap: 8 },
  ...everyInt4Format.flatMap((format) => [
    { title: `in two matrices each, ${format}`, T: 3, K: 64, I: [40, 24], format },
    { title: `act order, ${format}`, T: 3, K: 160, I: 24, format, actOrder: true },
    {
      title: `act order, longer groups in the checkpoint, ${format}`,
      ...{ T: 9, K: 384, I: 40, sourceGroup: 128, format, actOrder: true },
    },
  ]),
  { title: 'more tokens than a panel is multiplied with at once', T: 520, K: 64, I: 40 },
  { title: 'gates far from zero', T: 6, K: 64, I: 72, deviation: 1000 },
  { title: 'gates far from zero, many tokens', T: 40, K: 64, I: 72, deviation: 1000 },
  { title: '0.5B, some rows of it', T: 2, K: 896, I: 1000, group: 128 },
  { title: '7B, some rows of it', T: 2, K: 3584, I: 152, group: 128, format: 'gptq' },
  { title: '72B, some rows of it', T: 2, K: 8192, I: 72, group: 128 },
];

interface Call extends Case {
  group: number;
  width: number;
  activations: Float32Array;
  /** Of gate, then of up: matrices one below another. */
  parts: readonly (readonly Int4Matrix[])[];
}

function withValues(given: Case): Call {
  const { T, K, I, group = 32, sourceGroup = group } = given;
  const heights = [I].flat();
  return {
    ...given,
    group,
    width: heights.reduce((sum, height) => sum + height, 0),
    activations: uniforms(T * K, K, given.deviation),
    parts: [1, 2].map((seed) => heights.map((height, i) => randomInt4(height, K, K / sourceGroup, 10 * i + seed))),
  };
}

function packed(bench: OpBench, { K, width, group, parts, format = 'awq', actOrder }: Call) {
  const weight = bench.weight('swigluWeight', 2 * width, K, { dtype: 'int4', group });
  const columns = actOrder ? permutation(K, 1) : undefined;
  for (const [part, matrices] of parts.entries()) {
    let row_offset = 0;
    for (const matrix of matrices) {
      bench.run('swiglu_int4_pack', { ...int4Source(bench, format, matrix, { columns }), weight, part, row_offset });
      row_offset += matrix.N;
    }
  }
  return weight;
}

function prepare(bench: OpBench, dtype: Activation, call: Call) {
  const { T, K, width, gap = 0 } = call;
  return {
    x: bench.from(dtype, [T, K], call.activations, K + gap),
    weight: packed(bench, call),
    out: bench.empty(dtype, [T, width], width + 2 * gap),
  };
}

/** Values of a call, and gate's and up's products: made once for all devices. */
const expectations = perCase((dtype: Activation, given: Case) => {
  const call = withValues(given);
  const x = heldAs(dtype, call.activations);
  const [gate, up] = call.parts.map((part) => quantizedProducts(x, dequantized(part), call.K, call.group)) as [
    QuantizedProducts,
    QuantizedProducts,
  ];
  return { call, gate, up, expected: gate.sums.map((g, i) => silu(g) * up.sums[i]!) };
});

/** The slope of silu: from −0.1 to 1.1. */
const siluSlope = (a: number) => (1 + a / (1 + Math.exp(a))) / (1 + Math.exp(-a));

/** What out may be off by before it is rounded: the errors of both sums carried through silu, and a few fp32 steps. */
function errorsOf(device: DeviceCase, given: Case, exact: number, { gate, up }: ReturnType<typeof expectations>) {
  const [ofGate, ofUp] = [gate, up].map((products) => sumErrors(device, products, given.K, exact)) as [
    ReturnType<typeof sumErrors>,
    ReturnType<typeof sumErrors>,
  ];
  const most = gate.sums.map((g, i) => {
    const [u, gateError, upError] = [up.sums[i]!, 1.1 * ofGate.most[i]!, ofUp.most[i]!];
    // e⁸⁸ is the largest divisor.
    const steps = 2 ** -21 * Math.abs(silu(g) * u) + Math.abs(g * u) * Math.exp(-88);
    return gateError * Math.abs(u) + upError * Math.abs(silu(g)) + gateError * upError + steps;
  });
  const variance = gate.sums.map((g, i) => {
    const [slope, u] = [siluSlope(g), up.sums[i]!];
    return (slope * u) ** 2 * ofGate.variance[i]! + silu(g) ** 2 * ofUp.variance[i]!;
  });
  return { most, variance };
}

for (const device of [reference, ...devicesUnderTest])
  describe(`swiglu_int4 on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const dtype of activationsOf(device))
      for (const exact of exactnessOf(device))
        for (const given of cases)
          it(`${given.title}: ${dtype}[${given.T}, ${given.K}] × 2·[${given.I}, ${given.K}]ᵀ, exact ${exact}`, () =>
            withBench(device, async (bench) => {
              const expectation = expectations(dtype, given);
              const args = prepare(bench, dtype, expectation.call);
              bench.run('swiglu_int4', { ...args, exact, batch_invariant: 0 });
              const refusal = refusalOf(device, given);
              if (refusal) return assertRefused(bench, refusal);
              const errors = errorsOf(device, given, exact, expectation);
              assertPrecise(await bench.read(args.out), expectation.expected, dtype, errors);
              await bench.requireGapsUntouched(args.out);
            }));

    it('packs rows and leaves those beside them as they were', () =>
      withBench(device, async (bench) => {
        const call = withValues({ title: '', T: 3, K: 64, I: 40 });
        const { x, weight, out } = prepare(bench, 'bf16', call);
        const other = randomInt4(16, 64, 2, 5);
        for (const part of [0, 1])
          bench.run('swiglu_int4_pack', { ...int4Source(bench, 'gptq', other), weight, part, row_offset: 8 });
        bench.run('swiglu_int4', { x, weight, out, exact: 1, batch_invariant: 0 });
        const [gate, up] = call.parts.map((matrices) => {
          const numbers = dequantized(matrices);
          numbers.weight.set(dequantized([other]).weight, 8 * 64);
          return quantizedProducts(heldAs('bf16', call.activations), numbers, 64, 32).sums;
        }) as [Float64Array, Float64Array];
        const expected = gate.map((g, i) => silu(g) * up[i]!);
        assertClose(await bench.read(out), expected, (i) => 2 ** -7 * Math.abs(expected[i]!) + 1e-5);
      }));

    for (const column of [64, -1])
      it(`reports column ${column} of 64, naming its place`, () =>
        withBench(device, async (bench) => {
          const weight = bench.weight('swigluWeight', 32, 64, { dtype: 'int4', group: 32 });
          const source = int4Source(bench, 'awq', randomInt4(16, 64, 2, 1), { columns: permutation(64, 1) });
          const columns = bench.from('i32', [64], permutation(64, 1).with(5, column));
          bench.run('swiglu_int4_pack', { ...source, columns, weight, part: 1, row_offset: 0 });
          await assert.rejects(bench.stream.synchronized(), {
            code: 'invalid_argument',
            message: new RegExp(
              `columns\\[5\\] = ${column} is outside the 64 columns of the weight; in swiglu_int4_pack`,
            ),
          });
        }));
  });

/** How a row's bits are compared: on which device, in which company. */
interface Company {
  device: DeviceCase;
  threads: readonly number[];
  exact: number;
  T: number;
  K: number;
  I: number;
}

const companies: Company[] = [
  ...['scalar', 'avx2', 'avx512'].flatMap((simd) =>
    [0, 1].map((exact) => ({
      device: { title: simd, name: 'cpu', simd },
      ...{ threads: [1, 2, 3, 7], exact, T: 150, K: 1088, I: 72 },
    })),
  ),
  ...devicesUnderTest
    .filter(isCuda)
    .flatMap((device) => [128, 4224].map((K) => ({ device, threads: [1], exact: 1, T: 150, K, I: 24 }))),
];

describe('swiglu_int4', () => {
  for (const { device, threads, exact, T, K, I } of companies)
    it(`gives a row the same bits alone and in company, with any number of threads, on ${device.title}, K = ${K}, exact ${exact}`, async function () {
      requireDevice(this, device);
      const call = cancelling(withValues({ title: '', T, K, I }));
      await assertSameInCompany(device, { threads, T, parts: rowsOf150 }, (bench) => {
        const args = prepare(bench, 'bf16', call);
        return { ...args, run: (x, out) => bench.run('swiglu_int4', { ...args, x, out, exact, batch_invariant: 1 }) };
      });
    });
});

/**
 * The call with values for which up's products all but cancel: fp32 sums in another order then show after the rounding to
 * bf16. The second half of up's columns is the first half's negative.
 */
function cancelling(call: Call): Call {
  const { T, K, width } = call;
  const [half, groups] = [K / 2, K / call.group];
  const activations = Float32Array.from(call.activations);
  for (let t = 0; t < T; t++)
    for (let k = 0; k < half; k++) activations[t * K + half + k] = activations[t * K + k]! * (1 + (k % 5) / 64);
  const q = (n: number, k: number) => 1 + ((7 * n + 5 * k + ((n * k) >> 3)) % 15);
  const up = randomInt4(width, K, groups, 1, {
    q: (n, k) => (k < half ? q(n, k) : 16 - q(n, k - half)),
    zero: () => 8,
    scale: (n, g) => 0x2000 + ((37 * n + 11 * (g % (groups / 2))) % 1024),
  });
  return { ...call, activations, parts: [call.parts[0]!, [up]] };
}

const weightOf = (bench: OpBench, rows: number, columns: number) =>
  bench.weight('swigluWeight', rows, columns, { dtype: 'int4', group: 32 });

describeContract({
  op: 'swiglu_int4',
  valid: (bench) => ({
    x: bench.from('bf16', [3, 64], uniforms(192, 1)),
    weight: packed(bench, withValues({ title: '', T: 0, K: 64, I: 8 })),
    out: bench.empty('bf16', [3, 8]),
    exact: 1,
    batch_invariant: 0,
  }),
  violations: [
    {
      title: 'a weight of another K',
      change: (bench) => ({ weight: weightOf(bench, 16, 96) }),
      says: /weight must be \[2·I=?\d*, K=64\]: K is set by x/,
    },
    {
      title: 'a weight of as many rows as out has columns',
      change: (bench) => ({ weight: weightOf(bench, 8, 64) }),
      says: /weight must have two rows for each column of out/,
    },
    {
      title: 'the weight of linear_int4',
      change: (bench) => ({ weight: bench.weight('linearWeight', 16, 64, { dtype: 'int4', group: 32 }) }),
      says: /weight must be a weight packed for this operation/,
    },
    {
      title: 'the weight of swiglu',
      change: (bench) => ({ weight: bench.weight('swigluWeight', 16, 64) }),
      says: /weight must be int4/,
    },
    {
      title: 'out of another dtype than x',
      change: (bench) => ({ out: bench.empty('f32', [3, 8]) }),
      says: /x and out must have the same dtype, they have bf16 and f32/,
    },
    { title: 'exact of 2', change: () => ({ exact: 2 }), says: /exact must be 0 or 1/ },
    { title: 'batch_invariant of 2', change: () => ({ batch_invariant: 2 }), says: /batch_invariant must be 0 or 1/ },
    {
      title: 'out that overlaps x',
      change: (bench) => {
        const both = bench.empty('bf16', [3, 71]);
        return { x: both.narrow(1, 7, 64), out: both.narrow(1, 0, 8) };
      },
      says: /out must not overlap x/,
    },
  ],
});

const rows = /rows row_offset … row_offset \+ R must lie within the I rows of the part, from a multiple of 8 on/;

describeContract({
  op: 'swiglu_int4_pack',
  valid: (bench) => ({
    ...int4Source(bench, 'gptq', randomInt4(16, 64, 2, 1)),
    weight: weightOf(bench, 48, 64),
    part: 1,
    row_offset: 8,
  }),
  free: ['weight.0'],
  violations: [
    { title: 'rows past the end of the part', change: () => ({ row_offset: 16 }), says: rows },
    { title: 'rows of gate that end in up', change: () => ({ part: 0, row_offset: 16 }), says: rows },
    { title: 'rows before the start', change: () => ({ row_offset: -8 }), says: rows },
    { title: 'rows from within a word', change: () => ({ row_offset: 4 }), says: rows },
    { title: 'a third part', change: () => ({ part: 2 }), says: /part must be 0 \(gate\) or 1 \(up\)/ },
    { title: 'part −1', change: () => ({ part: -1 }), says: /part must be 0 \(gate\) or 1 \(up\)/ },
    { title: 'format 3', change: () => ({ format: 3 }), says: /format must be 0 \(AWQ\), 1 \(GPTQ\) or 2 \(GPTQ v2\)/ },
    {
      title: 'a weight of an odd number of rows',
      change: (bench) => ({ weight: weightOf(bench, 49, 64) }),
      says: /weight must have an even number of rows/,
    },
    {
      title: 'the weight of linear_int4',
      change: (bench) => ({ weight: bench.weight('linearWeight', 48, 64, { dtype: 'int4', group: 32 }) }),
      says: /weight must be a weight packed for this operation/,
    },
  ],
});
