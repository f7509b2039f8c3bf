// The reference device's block of the KV cache: [keys, values][Hkv][block_size][D], in the cache's dtype, and behind them
// the scales of 8-bit elements.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/kv_cache.h"
#include "core/tensor.h"

namespace qwen2::reference {

struct KvBlock {
  DType dtype;
  int64_t kv_heads, head_dim, block_size;

  // Which of the block's vectors of D elements.
  int64_t key(int64_t head, int64_t place) const { return head * block_size + place; }
  int64_t value(int64_t head, int64_t place) const { return (kv_heads + head) * block_size + place; }

  int64_t elements() const { return 2 * kv_heads * block_size * head_dim; }
  uint64_t bytes() const { return kv_bytes(dtype, elements(), {kv_heads, block_size}); }
  float* scales(uint8_t* block) const { return reinterpret_cast<float*>(block + elements()); }

  float read(uint8_t* block, int64_t vector, int64_t d) const {
    const int64_t i = vector * head_dim + d;
    switch (dtype) {
      case DType::bf16:
        return to_float(reinterpret_cast<bf16*>(block)[i]);
      case DType::int8:
        return kv_decode(Int8Kv{}, block[i]) * scales(block)[vector];
      case DType::fp8:
        return kv_decode(Fp8Kv{}, block[i]) * scales(block)[vector];
      default:
        return reinterpret_cast<float*>(block)[i];
    }
  }

  template <typename T>
  void write(uint8_t* block, int64_t vector, const T* x) const {
    if (dtype == DType::int8) {
      round<Int8Kv>(block, vector, x);
    } else if (dtype == DType::fp8) {
      round<Fp8Kv>(block, vector, x);
    } else {
      std::copy_n(x, head_dim, reinterpret_cast<T*>(block) + vector * head_dim);
    }
  }

 private:
  template <typename E, typename T>
  void round(uint8_t* block, int64_t vector, const T* x) const {
    float largest = 0;
    for (int64_t d = 0; d < head_dim; ++d) {
      const float magnitude = std::abs(to_float(x[d]));
      if (magnitude > largest || std::isnan(magnitude)) largest = magnitude;
    }
    const KvScale scale = kv_scale<E>(largest);
    scales(block)[vector] = scale.scale;
    for (int64_t d = 0; d < head_dim; ++d) block[vector * head_dim + d] = kv_element<E>(to_float(x[d]), scale);
  }
};

}  // namespace qwen2::reference
