// The reference device's block of the KV cache: [keys, values][Hkv][block_size][D], in the dtype of the activations.
#pragma once

#include <cstdint>

namespace qwen2::reference {

struct KvBlock {
  int64_t kv_heads, head_dim, block_size;

  int64_t elements() const { return 2 * kv_heads * block_size * head_dim; }
  int64_t key(int64_t head, int64_t place) const { return (head * block_size + place) * head_dim; }
  int64_t value(int64_t head, int64_t place) const { return ((kv_heads + head) * block_size + place) * head_dim; }
};

}  // namespace qwen2::reference
