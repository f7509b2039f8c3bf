// How CUDA devices lay out a block of the KV cache: [keys, values][Hkv][block_size][D] bf16. The keys, or values, of 16
// tokens under one head are one contiguous piece.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace qwen2::cuda {

struct KvBlock {
  int64_t kv_heads, head_dim, block_size;

  __device__ int64_t elements() const { return 2 * kv_heads * block_size * head_dim; }
  __device__ int64_t key(int64_t head, int64_t place) const { return (head * block_size + place) * head_dim; }
  __device__ int64_t value(int64_t head, int64_t place) const {
    return ((kv_heads + head) * block_size + place) * head_dim;
  }
};

}  // namespace qwen2::cuda
