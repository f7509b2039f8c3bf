// Causal attention with grouped query heads over a paged KV cache, for sequences of different lengths in one step.
//
// Sequence b has the queries t in [query_starts[b], query_starts[b + 1]), the last n_b of its context_lengths[b] tokens,
// whose keys and values are all in the cache already (prefill, chunked prefill with a prefix, decode, several query
// tokens in a decode step). Query t stands at position p = context_lengths[b] − query_starts[b + 1] + t and sees the
// keys at positions max(0, p − window + 1) … p; window 0 means all up to p. Query head h reads KV head h / (Hq / Hkv).
//   out[t, h] = Σ_j softmax_j(scale · q[t, h]·k[j]) · v[j]
// Position j of sequence b is in place j % block_size of block block_tables[b, j / block_size].
//
// Scores and softmax are fp32; probabilities may be rounded to the activations' dtype as the operand of the product with
// V (those of an fp8 or int8 cache after they are multiplied by the scales of their values), whose sum, and the softmax's
// sum, are fp32. Keys are reduced in chunks at absolute positions merged in one order, so
// a row gives the same bits alone and in company; on CUDA devices that takes `batch_invariant`: without it which chunks are
// merged first depends on the lengths in the step, so there the same step gives the same bits on devices of one kind, and
// another step may not. It costs tiles of 64 rows where a few would do, and up to 64 MB of workspace. Rows of sequences with
// context length 0 (padding) are zeros.
// Entries of block_tables past a sequence's last block, and the unwritten rest of that block, are never used.
// Tolerance: at most 2 × the error of the same computation in bf16 with fp32 softmax, against float64.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct AttentionArgs {
  Tensor q;                // activation[T, Hq·D], rotated; rows may be strided (a part of qkv)
  Tensor cache;            // u8[blocks, kv_block_bytes] of rope_and_cache, with the same cache_dtype
  Tensor block_tables;     // i32[B, max_blocks]
  Tensor query_starts;     // i32[B + 1], from 0 to T, not falling
  Tensor context_lengths;  // i32[B]
  Tensor out;              // dtype of q[T, Hq·D]
  DType cache_dtype;
  int32_t num_kv_heads;
  int32_t head_dim;
  int32_t block_size;
  int32_t window;
  float scale;
  int32_t batch_invariant;  // 0 or 1
};
QWEN2_FIELDS(AttentionArgs, q, cache, block_tables, query_starts, context_lengths, out, cache_dtype, num_kv_heads,
             head_dim, block_size, window, scale, batch_invariant)

void check(Contract& contract, const AttentionArgs& args);

}  // namespace qwen2
