import type { Stream } from '../native/stream.js';
import type { DType, Tensor } from '../native/tensor.js';
import type { Linear, Projection } from './linear.js';

/** Shape of an attention layer. */
export interface AttentionShape {
  numHeads: number;
  numKvHeads: number;
  headDim: number;
  /** As what the KV cache holds keys and values. */
  cacheDtype: DType;
  /** Tokens a block of the KV cache holds. */
  blockSize: number;
  /** Keys a query sees, itself included; 0: all before it. */
  window: number;
  /** As Precision has it. */
  batchInvariant: boolean;
}

/** Where the tokens of a step stand: what every attention layer reads. i32 tensors on the device. */
export interface Placement {
  /** f32[T, D]: cosines and sines of the tokens' positions. */
  ropeTable: Tensor;
  /** [T]: where the cache keeps each token. */
  slots: Tensor;
  /** [B, maxBlocks] */
  blockTables: Tensor;
  /** [B + 1] */
  queryStarts: Tensor;
  /** [B] */
  contextLengths: Tensor;
}

export interface AttentionScratch {
  /** [T, (Hq + 2·Hkv)·D] */
  qkv: Tensor;
  /** [T, Hq·D] */
  heads: Tensor;
  /** [T, max(H, Hq·D)], where some weight has an order. */
  permuted: Tensor | undefined;
}

/** Grouped-query attention with rotary positions over a paged KV cache. */
export class Attention {
  readonly qkv: Projection;
  readonly output: Linear;
  /** u8[blocks, bytes of a block]: this layer's part of the KV cache. */
  readonly cache: Tensor;
  /** f32[Hkv, D]: what keys are divided by and queries multiplied by. */
  readonly smoothing: Tensor | undefined;
  readonly #shape: AttentionShape;

  constructor(qkv: Projection, output: Linear, cache: Tensor, shape: AttentionShape, smoothing?: Tensor) {
    this.qkv = qkv;
    this.output = output;
    this.cache = cache;
    this.smoothing = smoothing;
    this.#shape = shape;
  }

  /** x[T, H] → out[T, H] by way of the scratch; out may be x. */
  forward(stream: Stream, x: Tensor, placement: Placement, scratch: AttentionScratch, out: Tensor): void {
    const { numHeads, numKvHeads, headDim, cacheDtype, blockSize, window, batchInvariant } = this.#shape;
    const { qkv, heads, permuted } = scratch;
    this.qkv.forward(stream, x, qkv, permuted);
    stream.run('rope_and_cache', {
      qkv,
      rope_table: placement.ropeTable,
      slots: placement.slots,
      cache: this.cache,
      smoothing: this.smoothing,
      cache_dtype: cacheDtype,
      num_heads: numHeads,
      num_kv_heads: numKvHeads,
      head_dim: headDim,
      block_size: blockSize,
    });
    stream.run('attention', {
      q: qkv.narrow(1, 0, numHeads * headDim),
      cache: this.cache,
      block_tables: placement.blockTables,
      query_starts: placement.queryStarts,
      context_lengths: placement.contextLengths,
      out: heads,
      cache_dtype: cacheDtype,
      num_kv_heads: numKvHeads,
      head_dim: headDim,
      block_size: blockSize,
      window,
      scale: headDim ** -0.5,
      batch_invariant: Number(batchInvariant),
    });
    this.output.forward(stream, heads, out, permuted);
  }
}
