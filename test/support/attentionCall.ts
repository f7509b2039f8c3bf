import type { CacheDType } from '../../lib/model/kvCache.js';
import type { OpArguments } from '../../lib/native/ops.js';
import type { Tensor } from '../../lib/native/tensor.js';
import type { AttentionSequence, AttentionShape } from './attentionModel.js';
import { emptyCache } from './kvCache.js';
import type { OpBench } from './opBench.js';
import { type Activation, heldAs } from './precision.js';
import { permutation, uniforms } from './uniforms.js';

/** What stands in block tables past a sequence's last block: never to be looked at. */
const beyond = [2 ** 31 - 1, -1, -(2 ** 31), 1_000_000];

/**
 * A sequence of random tokens as the dtype holds them. `sharpness` scales the queries, and so the scores. Queries of
 * padding are NaN: they are not to be looked at.
 */
export function randomSequence(
  { heads, kvHeads, headDim }: AttentionShape,
  dtype: Activation,
  { context, queries, sharpness = 1 }: { context: number; queries: number; sharpness?: number },
  seed: number,
): AttentionSequence {
  const random = (size: number, salt: number, deviation = 1) =>
    heldAs(dtype, uniforms(size, 10 * seed + salt, deviation));
  return {
    context,
    queries,
    q: random(queries * heads * headDim, 0, context === 0 ? Number.NaN : sharpness),
    k: random(context * kvHeads * headDim, 1),
    v: random(context * kvHeads * headDim, 2),
  };
}

/** The same sequence where only its queries from … from + count ask, as the last tokens of a shorter context. */
export function partOf(sequence: AttentionSequence, from: number, count: number): AttentionSequence {
  const width = sequence.q.length / sequence.queries;
  const context = sequence.context - sequence.queries + from + count;
  return { ...sequence, context, queries: count, q: sequence.q.slice(from * width, (from + count) * width) };
}

/** Sequences of one step with their keys and values in a cache, and the arguments of `attention`. */
export function prepareAttention(
  bench: OpBench,
  dtype: Activation,
  shape: AttentionShape,
  sequences: readonly AttentionSequence[],
  cacheDtype: CacheDType = dtype,
): OpArguments['attention'] {
  const { kvHeads, headDim, heads, blockSize, window, scale } = shape;
  const tokens = sequences.map(({ k }) => k.length / (kvHeads * headDim));
  const tables = blockTables(tokens, blockSize);
  const cache = emptyCache(bench, cacheDtype, tables.blocks, shape);
  fillCache(bench, dtype, shape, sequences, tables.rows, { cache, cacheDtype });
  const T = sequences.reduce((sum, { queries }) => sum + queries, 0);
  let start = 0;
  const starts = [0, ...sequences.map(({ queries }) => (start += queries))];
  const maxBlocks = tables.rows[0]?.length ?? 1;
  const i32 = (values: number[]) => bench.from('i32', [values.length], values);
  const width = heads * headDim;
  const q = new Float64Array(T * width);
  for (const [b, sequence] of sequences.entries()) q.set(sequence.q, starts[b]! * width);
  return {
    q: bench.from(dtype, [T, width], q, width + 2 * kvHeads * headDim),
    cache,
    block_tables: bench.from('i32', [sequences.length, maxBlocks], tables.rows.flat(), maxBlocks + 3),
    query_starts: i32(starts),
    context_lengths: i32(sequences.map(({ context }) => context)),
    out: bench.empty(dtype, [T, width], width + 4),
    cache_dtype: cacheDtype,
    num_kv_heads: kvHeads,
    head_dim: headDim,
    block_size: blockSize,
    window,
    scale,
    batch_invariant: 0,
  };
}

/** Blocks in shuffled order, with some that nobody uses, and rows that end in ids of no block. */
function blockTables(tokens: readonly number[], blockSize: number) {
  const used = tokens.map((count) => Math.ceil(count / blockSize));
  const blocks = used.reduce((sum, count) => sum + count, 0) + 3;
  const order = permutation(blocks, blocks);
  const maxBlocks = Math.max(1, ...used) + 2;
  let at = 0;
  const rows = used.map((count) => {
    const row = order.slice(at, at + count);
    at += count;
    while (row.length < maxBlocks) row.push(beyond[row.length % beyond.length]!);
    return row;
  });
  return { blocks, rows };
}

/** Writes keys and values by `rope_and_cache`, rotated by nothing. */
function fillCache(
  bench: OpBench,
  dtype: Activation,
  { kvHeads, headDim: D, blockSize }: AttentionShape,
  sequences: readonly AttentionSequence[],
  tables: readonly number[][],
  { cache, cacheDtype }: { cache: Tensor; cacheDtype: CacheDType },
): void {
  const width = kvHeads * D;
  for (const [b, { k, v }] of sequences.entries()) {
    const tokens = k.length / width;
    const qkv = new Float64Array(3 * k.length);
    const table = new Float64Array(tokens * D);
    for (let t = 0; t < tokens; t++) {
      qkv.set(k.subarray(t * width, (t + 1) * width), (3 * t + 1) * width);
      qkv.set(v.subarray(t * width, (t + 1) * width), (3 * t + 2) * width);
      table.fill(1, t * D, t * D + D / 2);
    }
    bench.run('rope_and_cache', {
      qkv: bench.from(dtype, [tokens, 3 * width], qkv),
      rope_table: bench.from('f32', [tokens, D], table),
      slots: bench.from(
        'i32',
        [tokens],
        Array.from({ length: tokens }, (_, t) => tables[b]![Math.floor(t / blockSize)]! * blockSize + (t % blockSize)),
      ),
      cache,
      cache_dtype: cacheDtype,
      num_heads: kvHeads,
      num_kv_heads: kvHeads,
      head_dim: D,
      block_size: blockSize,
    });
  }
}
