import assert from 'node:assert/strict';
import type { Tensor } from '../../lib/native/tensor.js';
import { assertClose } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import {
  dequantized,
  everyInt4Format,
  fromWords,
  type Int4Format,
  type Int4Values,
  int4Source,
  randomInt4,
  toWords,
} from '../support/int4Formats.js';
import {
  type DeviceCase,
  devicesUnderTest,
  type OpBench,
  reference,
  requireDevice,
  withBench,
} from '../support/opBench.js';
import { permutation } from '../support/uniforms.js';

describe('the words of int4 checkpoints', () => {
  const eight = (q: (n: number, k: number) => number) =>
    randomInt4(8, 8, 1, 0, { q, zero: (n) => n + 1, scale: () => 0x3c00 });

  it('are those of the formats', () => {
    const [byRow, byColumn] = [eight((n) => n), eight((_, k) => k)];
    assert.equal(toWords('awq', byRow).qweight[0], 0x75316420);
    assert.equal(toWords('gptq', byColumn).qweight[0], 0x76543210);
    assert.equal(toWords('gptqV2', byColumn).qweight[0], 0x76543210);
    assert.equal(toWords('awq', byRow).qzeros[0], 0x86427531 | 0);
    assert.equal(toWords('gptq', byRow).qzeros[0], 0x76543210);
    assert.equal(toWords('gptqV2', byRow).qzeros[0], 0x87654321 | 0);
  });

  for (const format of everyInt4Format)
    it(`are read as they were written: ${format}`, () => {
      const matrix = randomInt4(24, 64, 4, 1);
      assert.deepEqual(fromWords(format, toWords(format, matrix), 24, 64, 4), matrix);
    });
});

interface Part {
  N: number;
  format: Int4Format;
  /** Columns that share a scale in the checkpoint. Default: as in the weight. */
  sourceGroup?: number;
  actOrder?: boolean;
  values?: Int4Values;
  /** Elements between rows of the checkpoint's tensors beyond their length. */
  gap?: number;
}

const cases: { title: string; K: number; group: number; parts: Part[] }[] = [
  ...everyInt4Format.flatMap((format) => [
    { title: `${format}, one group of eight rows`, K: 32, group: 32, parts: [{ N: 8, format }] },
    { title: `${format}, rows beyond a panel`, K: 96, group: 32, parts: [{ N: 136, format }] },
    { title: `${format}, groups of 64`, K: 192, group: 64, parts: [{ N: 40, format }] },
    { title: `${format}, groups of 128, strided`, K: 256, group: 128, parts: [{ N: 72, format, gap: 3 }] },
    { title: `${format}, act order`, K: 160, group: 32, parts: [{ N: 24, format, actOrder: true }] },
    {
      title: `${format}, act order, longer groups in the checkpoint`,
      ...{ K: 256, group: 32, parts: [{ N: 24, format, actOrder: true, sourceGroup: 128, gap: 1 }] },
    },
    {
      title: `${format}, one group of all columns`,
      ...{ K: 192, group: 64, parts: [{ N: 24, format, sourceGroup: 192 }] },
    },
    {
      title: `${format}, every q with every zero that all formats have`,
      ...{
        K: 96,
        group: 32,
        parts: [
          { N: 16, format, values: { q: (_: number, k: number) => k % 16, zero: (n: number) => Math.max(1, n) } },
        ],
      },
    },
    {
      title: `${format}, q, k and v as one weight`,
      ...{
        K: 64,
        group: 32,
        parts: [
          { N: 56, format },
          { N: 8, format },
          { N: 16, format, actOrder: true },
        ],
      },
    },
  ]),
  { title: 'AWQ, zeros of 0', K: 64, group: 32, parts: [{ N: 16, format: 'awq', values: { zero: () => 0 } }] },
  { title: 'GPTQ v2, zeros of 0', K: 64, group: 32, parts: [{ N: 16, format: 'gptqV2', values: { zero: () => 0 } }] },
  {
    title: 'GPTQ, zeros of 16, which are stored as 15',
    ...{ K: 64, group: 32, parts: [{ N: 16, format: 'gptq', values: { zero: () => 16 } }] },
  },
  {
    title: 'scales of every kind: zero, subnormal, negative, the largest',
    ...{ K: 192, group: 32, parts: [{ N: 88, format: 'awq', values: { scale: (n, g) => scales[(n + g) % 8]! } }] },
  },
  {
    title: 'three formats as one weight, bounds within panels',
    ...{
      K: 128,
      group: 64,
      parts: [
        { N: 24, format: 'awq' },
        { N: 48, format: 'gptq' },
        { N: 32, format: 'gptqV2' },
      ],
    },
  },
];

/** Bits of f16. */
const scales = [0, 1, 0x3ff, 0x8001, 0x2400, 0xa400, 0x7bff, 0xfbff];

/** Every element of a packed weight: what it gives for tokens with a single one in them. */
async function unpacked(bench: OpBench, weight: Tensor): Promise<Float64Array> {
  const [N, K] = weight.shape as [number, number];
  const ones = Float64Array.from({ length: K * K }, (_, i) => (i % (K + 1) === 0 ? 1 : 0));
  const out = bench.empty('f32', [K, N]);
  bench.run('linear_int4', { x: bench.from('bf16', [K, K], ones), weight, out, exact: 1, batch_invariant: 0 });
  const columns = await bench.read(out);
  return Float64Array.from({ length: N * K }, (_, i) => columns[(i % K) * N + Math.floor(i / K)]!);
}

function packsParts(device: DeviceCase, K: number, group: number, parts: readonly Part[], reversed: boolean) {
  return withBench(device, async (bench) => {
    const N = parts.reduce((sum, part) => sum + part.N, 0);
    const weight = bench.weight('linearWeight', N, K, { dtype: 'int4', group });
    let offset = 0;
    const matrices = parts.map((part, i) => randomInt4(part.N, K, K / (part.sourceGroup ?? group), i, part.values));
    const calls = parts.map(({ format, actOrder, gap }, i) => {
      const columns = actOrder ? permutation(K, i) : undefined;
      const call = { ...int4Source(bench, format, matrices[i]!, { columns, gap }), weight, row_offset: offset };
      offset += matrices[i]!.N;
      return call;
    });
    for (const call of reversed ? calls.reverse() : calls) bench.run('linear_int4_pack', call);
    assertClose(await unpacked(bench, weight), dequantized(matrices).weight, 0);
  });
}

for (const device of [reference, ...devicesUnderTest])
  describe(`linear_int4_pack on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const { title, K, group, parts } of cases)
      for (const order of parts.length > 1 ? ['in order', 'last part first'] : ['in order'])
        it(`${title}, ${order}`, () => packsParts(device, K, group, parts, order !== 'in order'));

    it('leaves the rows beside its own as they were', () =>
      withBench(device, async (bench) => {
        const weight = bench.weight('linearWeight', 104, 64, { dtype: 'int4', group: 32 });
        const [before, after] = [randomInt4(104, 64, 2, 1), randomInt4(24, 64, 2, 2)];
        bench.run('linear_int4_pack', { ...int4Source(bench, 'awq', before), weight, row_offset: 0 });
        bench.run('linear_int4_pack', { ...int4Source(bench, 'gptq', after), weight, row_offset: 56 });
        const expected = dequantized([before]).weight;
        expected.set(dequantized([after]).weight, 56 * 64);
        assertClose(await unpacked(bench, weight), expected, 0);
      }));

    for (const column of [64, -1, 2 ** 31 - 1, -(2 ** 31)])
      it(`reports column ${column} of 64, naming its place`, () =>
        withBench(device, async (bench) => {
          const weight = bench.weight('linearWeight', 16, 64, { dtype: 'int4', group: 32 });
          const matrix = randomInt4(16, 64, 2, 1);
          const good = permutation(64, 1);
          const source = int4Source(bench, 'gptq', matrix, { columns: good });
          const columns = bench.from('i32', [64], good.with(37, column));
          bench.run('linear_int4_pack', { ...source, columns, weight, row_offset: 0 });
          await assert.rejects(bench.stream.synchronized(), {
            code: 'invalid_argument',
            message: new RegExp(
              `columns\\[37\\] = ${column} is outside the 64 columns of the weight; in linear_int4_pack`,
            ),
          });
          bench.run('linear_int4_pack', { ...source, weight, row_offset: 0 });
          assertClose(await unpacked(bench, weight), dequantized([matrix]).weight, 0);
        }));
  });

const rows = /rows row_offset … row_offset \+ R must lie within the weight's N rows, from a multiple of 8 on/;

describeContract({
  op: 'linear_int4_pack',
  valid: (bench) => ({
    ...int4Source(bench, 'awq', randomInt4(16, 64, 2, 1), { columns: permutation(64, 1) }),
    weight: bench.weight('linearWeight', 24, 64, { dtype: 'int4', group: 32 }),
    row_offset: 8,
  }),
  free: ['weight.0'],
  violations: [
    { title: 'rows past the end', change: () => ({ row_offset: 16 }), says: rows },
    { title: 'rows past the end of 32 bits', change: () => ({ row_offset: 2 ** 31 - 8 }), says: rows },
    { title: 'rows before the start', change: () => ({ row_offset: -8 }), says: rows },
    { title: 'rows from within a word', change: () => ({ row_offset: 4 }), says: rows },
    { title: 'format 3', change: () => ({ format: 3 }), says: /format must be 0 \(AWQ\), 1 \(GPTQ\) or 2 \(GPTQ v2\)/ },
    { title: 'format −1', change: () => ({ format: -1 }), says: /format must be 0 \(AWQ\)/ },
    {
      title: 'the qweight of another format',
      change: () => ({ format: 1 }),
      says: /qweight must be \[K\/8=8, R=16\]/,
    },
    {
      title: 'rows that are not a multiple of 8',
      change: (bench) => ({ scales: bench.empty('f16', [2, 12]) }),
      says: /rows must be a multiple of 8/,
    },
    {
      title: 'groups shorter than the weight has',
      change: (bench) => ({ scales: bench.empty('f16', [4, 16]), qzeros: bench.empty('i32', [4, 2]) }),
      says: /the K columns must be G groups of a multiple of the weight's group of 32/,
    },
    {
      title: 'groups that cut those of the weight',
      change: (bench) => ({
        scales: bench.empty('f16', [2, 16]),
        weight: bench.weight('linearWeight', 24, 192, { dtype: 'int4', group: 64 }),
      }),
      says: /the K columns must be G groups of a multiple of the weight's group of 64/,
    },
    {
      title: 'no groups',
      change: (bench) => ({ scales: bench.empty('f16', [0, 16]), qzeros: bench.empty('i32', [0, 2]) }),
      says: /the K columns must be G groups/,
    },
    {
      title: 'columns of another number',
      change: (bench) => ({ columns: bench.empty('i32', [32]) }),
      says: /columns must be \[K=64\]/,
    },
    {
      title: 'the weight of swiglu_int4',
      change: (bench) => ({ weight: bench.weight('swigluWeight', 24, 64, { dtype: 'int4', group: 32 }) }),
      says: /weight must be a weight packed for this operation/,
    },
    {
      title: 'the weight of linear',
      change: (bench) => ({ weight: bench.weight('linearWeight', 24, 64) }),
      says: /weight must be int4/,
    },
  ],
});
