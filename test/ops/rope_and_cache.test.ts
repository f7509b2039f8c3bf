import assert from 'node:assert/strict';
import type { CacheDType } from '../../lib/model/kvCache.js';
import { assertClose, assertSameBits } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { emptyCache, type KvShape, readCache } from '../support/kvCache.js';
import { elementValues, heldInCache, isRounded, type RoundedDType } from '../support/kvRounding.js';
import {
  activationsOf,
  type DeviceCase,
  devicesUnderTest,
  type OpBench,
  reference,
  requireDevice,
  withBench,
} from '../support/opBench.js';
import { rotate } from '../support/opModels.js';
import { type Activation, afterRounding, heldAs } from '../support/precision.js';
import { uniforms } from '../support/uniforms.js';

interface Case extends KvShape {
  title: string;
  heads: number;
  blocks: number;
  /** A token each; −1 is padding. */
  slots: readonly number[];
  /** Elements between rows of qkv and of the table beyond their length. */
  gap?: number;
  /** Whether keys are divided by factors, and queries multiplied. */
  smoothed?: boolean;
}

const block16 = { blockSize: 16, blocks: 3 };

const cases: Case[] = [
  { title: 'the smallest head', heads: 1, kvHeads: 1, headDim: 2, ...block16, slots: [0] },
  { title: 'no tokens', heads: 2, kvHeads: 1, headDim: 8, ...block16, slots: [] },
  {
    title: 'slots in shuffled order',
    heads: 4,
    kvHeads: 2,
    headDim: 64,
    ...block16,
    slots: [47, 0, 15, 16, 31, 32, 17],
  },
  { title: 'padding between tokens', heads: 2, kvHeads: 2, headDim: 10, ...block16, slots: [-1, 5, -1, -1, 40] },
  { title: 'nothing but padding', heads: 2, kvHeads: 1, headDim: 16, ...block16, slots: [-1, -1, -1] },
  {
    title: 'heads of 80 in blocks of 48',
    heads: 6,
    kvHeads: 1,
    headDim: 80,
    blockSize: 48,
    blocks: 2,
    slots: [95, 1, 47, 48],
  },
  { title: 'heads of 34, strided rows', heads: 3, kvHeads: 3, headDim: 34, ...block16, slots: [3, 2, 33], gap: 5 },
  {
    title: 'more tokens than a thread takes at once',
    heads: 2,
    kvHeads: 1,
    headDim: 6,
    ...block16,
    slots: Array.from({ length: 47 }, (_, t) => (t * 5) % 47),
  },
  { title: '0.5B', heads: 14, kvHeads: 2, headDim: 64, ...block16, slots: [20, 21, 22] },
  { title: '7B', heads: 28, kvHeads: 4, headDim: 128, ...block16, slots: [15, 16] },
  { title: '72B', heads: 64, kvHeads: 8, headDim: 128, ...block16, slots: [31, 8] },
  {
    title: '7B, smoothed',
    heads: 28,
    kvHeads: 4,
    headDim: 128,
    ...block16,
    slots: [15, -1, 16],
    gap: 3,
    smoothed: true,
  },
  { title: 'narrow heads, smoothed', heads: 6, kvHeads: 3, headDim: 10, ...block16, slots: [4, 5], smoothed: true },
  { title: 'the widest head', heads: 2, kvHeads: 1, headDim: 256, ...block16, slots: [9] },
];

const width = ({ heads, kvHeads, headDim }: Case) => (heads + 2 * kvHeads) * headDim;

function prepare(bench: OpBench, dtype: Activation, given: Case, cacheDtype: CacheDType = dtype) {
  const { heads, kvHeads, headDim, blockSize, blocks, slots, gap = 0 } = given;
  const T = slots.length;
  const { qkv, table } = valuesOf(given);
  return {
    qkv: bench.from(dtype, [T, width(given)], qkv, width(given) + gap),
    rope_table: bench.from('f32', [T, headDim], table, headDim + gap),
    slots: bench.from('i32', [T], slots),
    cache: emptyCache(bench, cacheDtype, blocks, given),
    smoothing: given.smoothed ? bench.from('f32', [kvHeads, headDim], factorsOf(given), headDim + gap) : undefined,
    cache_dtype: cacheDtype,
    num_heads: heads,
    num_kv_heads: kvHeads,
    head_dim: headDim,
    block_size: blockSize,
  };
}

/** Activations, and cosines and sines of random angles. */
function valuesOf(given: Case) {
  const T = given.slots.length;
  const half = given.headDim / 2;
  const angles = uniforms(T * half, 3, 10);
  const table = new Float32Array(T * given.headDim);
  for (const [i, angle] of angles.entries()) {
    const at = Math.floor(i / half) * given.headDim + (i % half);
    table[at] = Math.cos(angle);
    table[at + half] = Math.sin(angle);
  }
  return { qkv: uniforms(T * width(given), given.headDim), table };
}

const largestFactor = 16;
/** Powers of two from 1/2 on. */
function factorsOf({ kvHeads, headDim }: Case): Float64Array {
  return Float64Array.from(
    uniforms(kvHeads * headDim, 11),
    (x) => 2 ** Math.min(Math.log2(largestFactor), Math.max(-1, Math.round(2 * x))),
  );
}

/** Row t of the step, by heads: as it is held, and rotated. */
function tokenOf(given: Case, dtype: Activation, t: number) {
  const { heads, kvHeads, headDim: D } = given;
  const { qkv, table } = valuesOf(given);
  const row = heldAs(dtype, qkv.subarray(t * width(given), (t + 1) * width(given)));
  const [cos, sin] = [table.subarray(t * D, t * D + D / 2), table.subarray(t * D + D / 2, (t + 1) * D)];
  const rotated = (head: number) => rotate(row.subarray(head * D, (head + 1) * D), cos, sin);
  const concatenate = (from: number, count: number) =>
    Float64Array.from(Array.from({ length: count }, (_, h) => [...rotated(from + h)]).flat());
  const factors = given.smoothed ? factorsOf(given) : new Float64Array(kvHeads * D).fill(1);
  const ofQuery = (i: number) => factors[Math.floor(i / D / (heads / kvHeads)) * D + (i % D)]!;
  return {
    query: concatenate(0, heads).map((x, i) => x * ofQuery(i)),
    key: concatenate(heads, kvHeads).map((x, i) => x / factors[i]!),
    unrotated: row.subarray(heads * D),
    value: row.subarray((heads + kvHeads) * D),
  };
}

/** Two products and a sum in fp32, of at most twice the largest element, then one rounding. */
const tolerance = (dtype: Activation, expected: Float64Array, { smoothed = false } = {}) => {
  const largest = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 2) * (smoothed ? largestFactor : 1);
  return (i: number) => afterRounding(dtype, expected[i]!, 3 * 2 ** -24 * largest);
};

/** Of a key in the cache: one of 8 bits is half a step further off, and steps of its scale may be a little larger. */
function keyTolerance(dtype: Activation, cacheDtype: CacheDType, key: Float64Array, given: Case) {
  const { headDim } = given;
  const exact = tolerance(dtype, key, given);
  if (!isRounded(cacheDtype)) return exact;
  const headOf = (i: number) => key.subarray(i - (i % headDim), i - (i % headDim) + headDim);
  const largestOf = (i: number) => headOf(i).reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return (i: number) => exact(i) + 1.01 * halfStep(cacheDtype, Math.abs(key[i]!), largestOf(i)) + exact(i) / 8;
}

/** Half of what lies between neighbours of x in a head whose largest magnitude is `largest`. */
function halfStep(dtype: RoundedDType, x: number, largest: number): number {
  const values = elementValues[dtype];
  const scale = largest / values.at(-1)!;
  const above = values.findIndex((value) => value * scale >= x);
  const at = above === -1 ? values.length - 1 : Math.max(1, above);
  return (scale * (values[at]! - values[at - 1]!)) / 2;
}

async function assertAsModelled(
  device: DeviceCase,
  dtype: Activation,
  cacheDtype: CacheDType,
  given: Case,
): Promise<void> {
  await withBench(device, async (bench) => {
    const args = prepare(bench, dtype, given, cacheDtype);
    bench.run('rope_and_cache', args);
    const written = given.slots.flatMap((slot, t) => (slot < 0 ? [] : [{ slot, t }]));
    const { tokens, restIsPoison, elementsSeen } = await readCache(
      bench,
      args.cache,
      cacheDtype,
      given,
      written.map(({ slot }) => slot),
    );
    assert.ok(restIsPoison, 'places of the cache without a token are as they were');
    assert.equal(elementsSeen, written.length * 2 * given.kvHeads * given.headDim, 'no two elements share a place');
    for (const [i, { t }] of written.entries()) {
      const { key, value } = tokenOf(given, dtype, t);
      assertClose(tokens[i]!.key, key, keyTolerance(dtype, cacheDtype, key, given), `key of token ${t}`);
      assertSameBits(tokens[i]!.value, heldInCache(cacheDtype, value, given.headDim), `value of token ${t}`);
    }
    const qkv = await bench.read(args.qkv);
    for (const t of given.slots.keys()) {
      const { query, unrotated } = tokenOf(given, dtype, t);
      const row = qkv.subarray(t * width(given), (t + 1) * width(given));
      assertClose(row.subarray(0, query.length), query, tolerance(dtype, query, given), `queries of token ${t}`);
      assertSameBits(row.subarray(query.length), unrotated, `keys and values of token ${t} in qkv`);
    }
    await bench.requireGapsUntouched(args.qkv);
  });
}

const neighbour = uniforms(64, 5);
/** x + (−0) is not x where x is −0. */
const withoutSign = (x: number) => (x === 0 ? 0 : x);

/** What a head of 64 can be. */
const hardHeads = [
  { title: 'zeros', head: new Float64Array(64) },
  { title: 'numbers all but zero', head: Float64Array.from({ length: 64 }, (_, j) => (j % 3) * 2 ** -120) },
  {
    title: 'the largest numbers',
    head: Float64Array.from({ length: 64 }, (_, j) => (j % 2 ? -1 : 1) * (3e38 - j * 4e36)),
  },
  {
    title: 'one large number among small ones',
    head: Float64Array.from({ length: 64 }, (_, j) => (j === 40 ? -300 : (j - 30) / 16)),
  },
  { title: 'every step of the scale', head: Float64Array.from({ length: 64 }, (_, j) => 448 * 2 ** (-j / 3)) },
  { title: 'halves of steps', head: Float64Array.from({ length: 64 }, (_, j) => (j === 0 ? 127 : j - 31.5)) },
  { title: 'a NaN', head: Float64Array.from({ length: 64 }, (_, j) => (j === 63 ? Number.NaN : j)) },
  { title: 'an infinity', head: Float64Array.from({ length: 64 }, (_, j) => (j === 7 ? Number.NEGATIVE_INFINITY : j)) },
];

for (const device of [reference, ...devicesUnderTest])
  describe(`rope_and_cache on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const dtype of activationsOf(device))
      for (const cacheDtype of [dtype, 'fp8', 'int8'] as const)
        for (const given of cases.filter(({ headDim }) => !isRounded(cacheDtype) || headDim % 16 === 0))
          it(`${given.title}, ${dtype}${cacheDtype === dtype ? '' : ` to ${cacheDtype}`}`, () =>
            assertAsModelled(device, dtype, cacheDtype, given));

    for (const cacheDtype of ['fp8', 'int8'] as const)
      for (const { title, head } of hardHeads)
        it(`rounds a head of ${title} to ${cacheDtype}`, () =>
          withBench(device, async (bench) => {
            const shape = { kvHeads: 3, headDim: head.length, blockSize: 16 };
            const held = heldAs('bf16', [...neighbour, ...head, ...neighbour]);
            const width = held.length;
            const cache = emptyCache(bench, cacheDtype, 1, shape);
            bench.run('rope_and_cache', {
              qkv: bench.from('bf16', [1, 3 * width], [...held, ...held, ...held]),
              rope_table: bench.from(
                'f32',
                [1, head.length],
                Array.from(head, (_, j) => Number(j < head.length / 2)),
              ),
              slots: bench.from('i32', [1], [5]),
              cache,
              cache_dtype: cacheDtype,
              num_heads: 3,
              num_kv_heads: shape.kvHeads,
              head_dim: shape.headDim,
              block_size: shape.blockSize,
            });
            const { tokens } = await readCache(bench, cache, cacheDtype, shape, [5]);
            const expected = heldInCache(cacheDtype, held, head.length);
            assertSameBits(tokens[0]!.value, expected, 'value');
            // Rotation by nothing: 0 · infinity is NaN.
            if (held.every(Number.isFinite))
              assertSameBits(tokens[0]!.key.map(withoutSign), expected.map(withoutSign), 'key');
          }));

    for (const slot of [48, -2, 2 ** 31 - 1, -(2 ** 31)])
      it(`reports slot ${slot} of 48, and writes nothing for it`, () =>
        withBench(device, async (bench) => {
          const given = { ...cases[0]!, slots: [7, slot, 9] };
          const args = prepare(bench, 'bf16', given);
          bench.run('rope_and_cache', args);
          await assert.rejects(bench.stream.synchronized(), {
            code: 'invalid_argument',
            message: new RegExp(`slots\\[1\\] = ${slot} is outside the cache of 48 slots; in rope_and_cache\\(`),
          });
          assert.ok((await readCache(bench, args.cache, 'bf16', given, [7, 9])).restIsPoison);
        }));
  });

const example: Case = { title: '', heads: 4, kvHeads: 2, headDim: 6, blockSize: 16, blocks: 2, slots: [0, 17, -1] };

describeContract({
  op: 'rope_and_cache',
  valid: (bench) => prepare(bench, 'bf16', example),
  free: ['cache.0'],
  violations: [
    {
      title: 'a cache of blocks of another size',
      change: (bench) => ({ cache: bench.empty('u8', [2, 64]) }),
      says: /cache must be \[blocks=2, kv_block_bytes=\d+\]: kv_block_bytes is set by cache_dtype, heads, head_dim and block_size/,
    },
    {
      title: 'a block size that the cache is not made for',
      change: () => ({ block_size: 32 }),
      says: /kv_block_bytes is set by cache_dtype, heads, head_dim and block_size/,
    },
    ...(['f32', 'u8', 'int4'] as const).map((cache_dtype) => ({
      title: `a cache of ${cache_dtype}`,
      change: () => ({ cache_dtype }),
      says: /cache_dtype must be fp8, int8, or bf16 as the activations/,
    })),
    {
      title: 'a cache of 8 bits for heads that are no multiple of 16',
      change: () => ({ cache_dtype: 'int8' as const }),
      says: /head_dim must be a multiple of 16 for a cache of int8/,
    },
    ...[0, -16, 8, 17, 4112, 2 ** 31 - 16].map((block_size) => ({
      title: `a block size of ${block_size}`,
      change: () => ({ block_size }),
      says: /block_size must be a multiple of 16, at most 4096/,
    })),
    ...[0, -2, 5, 258, 2 ** 31 - 2].map((head_dim) => ({
      title: `a head_dim of ${head_dim}`,
      change: () => ({ head_dim }),
      says: /head_dim must be even, at most 256/,
    })),
    ...[0, -1, 3, 5].map((num_heads) => ({
      title: `${num_heads} heads`,
      change: () => ({ num_heads }),
      says: /num_heads must be a positive multiple of num_kv_heads/,
    })),
    ...[0, -2].map((num_kv_heads) => ({
      title: `${num_kv_heads} KV heads`,
      change: () => ({ num_kv_heads }),
      says: /num_kv_heads must be positive/,
    })),
    {
      title: 'as many heads as overflow 32 bits with their KV heads',
      change: () => ({ num_heads: 2 ** 30, num_kv_heads: 2 ** 30 }),
      says: /qkv must be \[T=3, \(Hq \+ 2·Hkv\)·D=19327352832\]/,
    },
    {
      title: 'a qkv without the values',
      change: (bench) => ({ qkv: bench.empty('bf16', [3, 36]) }),
      says: /qkv must be \[T=3, \(Hq \+ 2·Hkv\)·D=48\]: \(Hq \+ 2·Hkv\)·D is set by the heads/,
    },
    {
      title: 'a table of half the width',
      change: (bench) => ({ rope_table: bench.empty('f32', [3, 3]) }),
      says: /rope_table must be \[T=3, D=6\]: D is set by head_dim/,
    },
    {
      title: 'factors for query heads',
      change: (bench) => ({ smoothing: bench.empty('f32', [4, 6]) }),
      says: /smoothing must be \[Hkv=2, D=6\]: Hkv is set by num_kv_heads/,
    },
    {
      title: 'a cache that starts at an odd byte',
      change: (bench, { cache }) => {
        const [blocks, bytes] = cache.shape as [number, number];
        return {
          cache: bench
            .empty('u8', [blocks * bytes + 1])
            .narrow(0, 1, blocks * bytes)
            .view(blocks, bytes),
        };
      },
      says: /cache must have its blocks at multiples of 16 bytes/,
    },
  ],
});
