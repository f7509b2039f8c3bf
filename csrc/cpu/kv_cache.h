// How the CPU device lays out a block of the KV cache: so that both products of attention are chains of `dot`, without a
// sum across lanes.
//
//   keys    [Hkv][block_size / 16][D / 2][16 tokens][2 dimensions]   q·k of 16 tokens: a pair of q against 16 pairs
//   values  [Hkv][block_size / 2][padded D][2 tokens]                p·v: a pair of p against pairs of tokens
//
// Values are padded to whole vectors in D; the padding is never written and what is computed from it never stored. An
// fp8 or int8 block has its scales behind the elements.
#pragma once

#include "core/kv_cache.h"

namespace qwen2::cpu {

constexpr int64_t kv_group = 16;  // tokens

struct KvBlock {
  int64_t kv_heads, head_dim, block_size;

  constexpr int64_t padded_dim() const { return (head_dim + 15) / 16 * 16; }
  constexpr int64_t key_elements() const { return kv_heads * block_size * head_dim; }
  constexpr int64_t elements() const { return key_elements() + kv_heads * block_size * padded_dim(); }
  constexpr KvScales scales() const { return {kv_heads, block_size}; }

  // Offsets in elements from the start of the block.
  // The group of 16 tokens that `place` is in: [D / 2][16][2].
  constexpr int64_t key_group(int64_t head, int64_t place) const {
    return (head * block_size + place / kv_group * kv_group) * head_dim;
  }
  // The pair of tokens that `place` is in: [padded D][2].
  constexpr int64_t value_pair(int64_t head, int64_t place) const {
    return key_elements() + (head * block_size + place / 2 * 2) * padded_dim();
  }
};

}  // namespace qwen2::cpu
