// For each token t of the step, with qkv[t] = Hq query heads, Hkv key heads, Hkv value heads of D elements:
//   rotates the query heads in place, rotates the key heads, and writes keys and values to slot slots[t] of the cache.
//
// Half rotation: element j of a head pairs with j + D/2, j < D/2:
//   out[j] = x[j]·cos[j] − x[j + D/2]·sin[j],   out[j + D/2] = x[j + D/2]·cos[j] + x[j]·sin[j]
// computed in fp32, rounded once, to the activations' dtype.
//
// cache_dtype is that dtype, or fp8 or int8: then every key head and value head of a token is rounded to 8 bits, with a
// scale of its own (core/kv_cache.h), and D is a multiple of 16.
//
// With `smoothing`, rotated keys are divided by the factors of their KV head, and rotated queries multiplied by those of the
// KV head that they read, before they are rounded: scores stay what they are, and no few columns of the keys are so large
// that a rounding to 8 bits leaves nothing of the others (SmoothAttention of arXiv:2405.04532).
//
// A slot is block · block_size + place in the block; −1 writes nothing (padding). The cache of a layer is opaque: one
// row of kv_block_bytes a block, at multiples of 16 bytes, in the device's own order. Keys inside qkv are left as they were.
// Errors: a slot beyond the cache is reported by the stream, with its row.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct RopeAndCacheArgs {
  Tensor qkv;         // activation[T, (Hq + 2·Hkv)·D], query part rewritten
  Tensor rope_table;  // f32[T, D] of rope_table
  Tensor slots;       // i32[T]
  Tensor cache;       // u8[blocks, kv_block_bytes], written
  OptionalTensor smoothing;  // f32[Hkv, D]
  DType cache_dtype;
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  int32_t block_size;
};
QWEN2_FIELDS(RopeAndCacheArgs, qkv, rope_table, slots, cache, smoothing, cache_dtype, num_heads, num_kv_heads, head_dim, block_size)

void check(Contract& contract, const RopeAndCacheArgs& args);

}  // namespace qwen2
