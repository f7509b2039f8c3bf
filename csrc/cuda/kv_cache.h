// How CUDA devices lay out a block of the KV cache: [keys, values][Hkv][block_size][D], and behind it the scales of 8-bit
// elements. The keys, or values, of 16 tokens under one head are one contiguous piece.
//
// Elements of 8 bits are permuted within every 16 of a row. A lane gets four neighbours of ldmatrix, and turns bytes 0 and 2
// into one pair of bf16, bytes 1 and 3 into another; where they belong in operand B is what the order is made for:
//   keys    bytes 4t … 4t + 3 are columns 2t, 2t + 8, 2t + 1, 2t + 9: rows of B in both registers of lane t of four
//   values  bytes 2t, 2t + 1 are columns t, t + 8: column t of two neighbouring tiles
#pragma once

#include "core/kv_cache.h"

namespace qwen2::cuda {

struct KvBlock {
  int64_t kv_heads, head_dim, block_size;

  QWEN2_HOST_DEVICE int64_t elements() const { return vectors() * head_dim; }
  QWEN2_HOST_DEVICE KvScales scales() const { return {kv_heads, block_size}; }

  // Keys and values are vectors of D elements. A value is as far behind its key as there are keys.
  QWEN2_HOST_DEVICE int64_t vectors() const { return 2 * keys(); }
  QWEN2_HOST_DEVICE int64_t keys() const { return kv_heads * block_size; }
  QWEN2_HOST_DEVICE int64_t key(int64_t head, int64_t place) const { return head * block_size + place; }
};

// The byte of column d of an 8-bit key, or value.
QWEN2_HOST_DEVICE constexpr int64_t key_byte(int64_t d) { return d / 16 * 16 + d % 8 / 2 * 4 + d % 2 * 2 + d % 16 / 8; }
QWEN2_HOST_DEVICE constexpr int64_t value_byte(int64_t d) { return d / 16 * 16 + d % 8 * 2 + d % 16 / 8; }

}  // namespace qwen2::cuda
