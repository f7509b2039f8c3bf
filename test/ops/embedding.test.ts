import assert from 'node:assert/strict';
import type { Tensor } from '../../lib/native/tensor.js';
import { assertSameBits } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { int8Weight, roundedToInt8 } from '../support/int8Weights.js';
import {
  activationsOf,
  type DeviceCase,
  devicesUnderTest,
  type OpBench,
  reference,
  requireDevice,
  withBench,
} from '../support/opBench.js';
import { heldAs } from '../support/precision.js';
import { uniforms } from '../support/uniforms.js';

interface Case {
  title: string;
  ids: readonly number[];
  V: number;
  H: number;
  /** Elements between rows of the table and of out beyond their length. */
  gap?: number;
}

const cases: Case[] = [
  { title: 'one token of one', ids: [0], V: 1, H: 1 },
  { title: 'first and last token, repeated', ids: [0, 9, 9, 0, 9], V: 10, H: 7 },
  { title: 'strided rows', ids: [3, 1, 2, 4], V: 5, H: 33, gap: 6 },
  {
    title: 'more tokens than a thread takes at once',
    ids: Array.from({ length: 100 }, (_, t) => (t * 37) % 71),
    V: 71,
    H: 18,
  },
  { title: 'no tokens', ids: [], V: 4, H: 8 },
  { title: 'three groups of columns, strided rows', ids: [70, 0, 64, 64, 1], V: 71, H: 96, gap: 6 },
  { title: 'groups of 64', ids: [2, 129, 63], V: 130, H: 192 },
  { title: 'the width of 0.5B', ids: [129, 0, 64, 63], V: 130, H: 896 },
  { title: 'the width of 72B', ids: [65, 1], V: 66, H: 8192 },
];

interface Table {
  make: (bench: OpBench, given: Case, values: ArrayLike<number>) => Tensor;
  /** The numbers that it then holds. */
  holds: (values: Float64Array, given: Case) => Float64Array;
  takes: (given: Case) => boolean;
}

/** The largest group of columns that H is a multiple of. */
const groupOf = ({ H }: Case) => [128, 64, 32].find((group) => H % group === 0)!;

/** The table as a plain tensor, and as the LM head's weight. */
const tables: Record<string, Table> = {
  'a plain table': {
    make: (bench, { V, H, gap = 0 }, values) => bench.from('bf16', [V, H], values, H + gap),
    holds: (values) => values,
    takes: () => true,
  },
  'the weight of the LM head': {
    make: (bench, { V, H }, values) => {
      const table = bench.weight('linearWeight', V, H);
      bench.run('linear_pack', { source: bench.from('bf16', [V, H], values), weight: table, row_offset: 0 });
      return table;
    },
    holds: (values) => values,
    takes: () => true,
  },
  'the int8 weight of the LM head': {
    make: (bench, given, values) => int8Weight(bench, given.V, given.H, groupOf(given), values),
    holds: (values, given) => roundedToInt8(values, groupOf(given)).weight,
    takes: ({ H }) => H % 32 === 0,
  },
};

for (const device of [reference, ...devicesUnderTest])
  describe(`embedding on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const dtype of activationsOf(device))
      for (const [kind, table] of Object.entries(tables))
        for (const given of cases.filter(table.takes))
          it(`${given.title}, from ${kind} to ${dtype}`, () =>
            withBench(device, async (bench) => {
              const { ids, V, H, gap = 0 } = given;
              const values = heldAs('bf16', uniforms(V * H, V + H));
              const out = bench.empty(dtype, [ids.length, H], H + gap);
              bench.run('embedding', {
                ids: bench.from('i32', [ids.length], ids),
                table: table.make(bench, given, values),
                out,
              });
              const held = heldAs(dtype, table.holds(values, given));
              const expected = ids.flatMap((id) => [...held.subarray(id * H, (id + 1) * H)]);
              assertSameBits(await bench.read(out), expected);
              await bench.requireGapsUntouched(out);
            }));

    for (const id of [7, -1, 2 ** 31 - 1, -(2 ** 31)])
      for (const [kind, { make }] of Object.entries(tables))
        it(`reports token id ${id} outside ${kind}, naming the row`, () =>
          withBench(device, async (bench) => {
            const table = make(bench, { title: '', ids: [], V: 7, H: 32 }, uniforms(7 * 32, 1));
            const out = bench.empty('bf16', [3, 32]);
            bench.run('embedding', { ids: bench.from('i32', [3], [6, id, 0]), table, out });
            await assert.rejects(bench.stream.synchronized(), {
              code: 'invalid_argument',
              message: new RegExp(`token id ${id} at row 1 is outside the vocabulary of 7; in embedding\\(`),
            });
            bench.run('embedding', { ids: bench.from('i32', [3], [6, 5, 0]), table, out });
            assert.ok((await bench.read(out)).every(Number.isFinite));
          }));
  });

for (const device of devicesUnderTest) itComputesInBf16Only(device);

function itComputesInBf16Only(device: DeviceCase): void {
  it(`embedding on ${device.title} says that f32 activations are for reference`, async function () {
    requireDevice(this, device);
    await withBench(device, async (bench) => {
      const ids = bench.from('i32', [1], [0]);
      bench.run('embedding', { ids, table: bench.from('bf16', [1, 2], [1, 2]), out: bench.empty('f32', [1, 2]) });
      await assert.rejects(bench.stream.synchronized(), { code: 'unsupported', message: /use the reference device/ });
    });
  });
}

describeContract({
  op: 'embedding',
  valid: (bench) => ({
    ids: bench.from('i32', [3], [0, 4, 2]),
    table: bench.from('bf16', [5, 6], uniforms(30, 1)),
    out: bench.empty('bf16', [3, 6]),
  }),
  free: ['table.0'],
  violations: [
    {
      title: 'out of another width',
      change: (bench) => ({ out: bench.empty('bf16', [3, 7]) }),
      says: /out must be \[T=3, H=6\]: H is set by table; got embedding\(ids i32\[3\], table bf16\[5, 6\], out bf16\[3, 7\]\)/,
    },
    {
      title: 'the weight of another operation',
      change: (bench) => ({ table: bench.weight('swigluWeight', 5, 6) }),
      says: /table must be a weight packed for this operation/,
    },
    {
      title: 'a table of f32',
      change: (bench) => ({ table: bench.empty('f32', [5, 6]) }),
      says: /table must be bf16;/,
    },
    {
      title: 'a weight of int4',
      change: (bench) => ({ table: bench.weight('linearWeight', 8, 32, { dtype: 'int4', group: 32 }) }),
      says: /table must be bf16 or int8/,
    },
  ],
});
