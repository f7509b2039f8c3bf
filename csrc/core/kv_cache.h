// KV caches of 8 bits: what every device must agree on. Every key head, and value head, of a token has a scale of its own,
// so that a token with large keys costs its neighbours nothing:
//   scale = m / largest,   held = the element of the dtype that is nearest to x · (largest / m)
// with m the head's largest |x|, and `largest` the dtype's: 127 of int8, 448 of fp8, which is E4M3 without infinities
// (arXiv:2209.05433). A head that is all but zero is zeros; one that is not finite has a scale that is not, and so are
// its products.
#pragma once

#include <cmath>

#include "core/dtype.h"

namespace qwen2 {

constexpr bool is_quantized_cache(DType dtype) { return dtype == DType::fp8 || dtype == DType::int8; }

// Bounds that keep the sizes computed from them far from overflow.
constexpr int32_t max_head_dim = 256;
constexpr int32_t max_block_size = 4096;

// Head dimensions of a quantized cache are multiples of this.
constexpr int64_t quantized_head_dim = 16;

// Where the scales of a block are, in floats from their beginning, behind its elements: [keys, values][Hkv][block_size].
struct KvScales {
  int64_t kv_heads, block_size;

  QWEN2_HOST_DEVICE constexpr int64_t key(int64_t head, int64_t place) const { return head * block_size + place; }
  QWEN2_HOST_DEVICE constexpr int64_t value(int64_t head, int64_t place) const {
    return (kv_heads + head) * block_size + place;
  }
  QWEN2_HOST_DEVICE constexpr int64_t count() const { return 2 * kv_heads * block_size; }
};

// Of a block of `elements` elements.
constexpr uint64_t kv_bytes(DType dtype, int64_t elements, const KvScales& scales) {
  const int64_t of_scales = is_quantized_cache(dtype) ? scales.count() * static_cast<int64_t>(sizeof(float)) : 0;
  return static_cast<uint64_t>(elements * size_of(dtype) + of_scales);
}

struct KvScale {
  float scale;
  float inverse;  // what x is multiplied by before it is rounded
};

// The elements, as bytes. Functions and not members, and static, because they are compiled for several instruction sets.
struct Int8Kv {
  static constexpr float largest = 127;
};
struct Fp8Kv {
  static constexpr float largest = 448;
};

// largest_in_head: NaN if any element is.
template <typename E>
QWEN2_HOST_DEVICE static inline KvScale kv_scale(float largest_in_head) {
  if (largest_in_head >= 0x1p-100f && largest_in_head < __builtin_inff())
    return {largest_in_head / E::largest, E::largest / largest_in_head};
  return {largest_in_head < 0x1p-100f ? 0.0f : __builtin_nanf(""), 0.0f};
}

// As whole numbers from 1 to 255, 128 more than they are.
QWEN2_HOST_DEVICE static inline uint8_t kv_encode(Int8Kv, float scaled) {
  return static_cast<uint8_t>(static_cast<int>(rintf(scaled)) + 128);
}
QWEN2_HOST_DEVICE static inline float kv_decode(Int8Kv, uint8_t bits) { return static_cast<float>(bits - 128); }

QWEN2_HOST_DEVICE static inline uint8_t kv_encode(Fp8Kv, float scaled) {
  const uint32_t bits = std::bit_cast<uint32_t>(scaled), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7FFFFFFFu;
  // Below 2⁻⁶ in steps of 2⁻⁹.
  if (magnitude < 0x3C800000u)
    return static_cast<uint8_t>(sign | static_cast<uint32_t>(rintf(std::bit_cast<float>(magnitude) * 512.0f)));
  return static_cast<uint8_t>(sign | (((magnitude + 0x7FFFFu + (magnitude >> 20 & 1u)) >> 20) - 960u));
}
// As a float, whose exponents have a bias of 127 and not of 7.
QWEN2_HOST_DEVICE static inline float kv_decode(Fp8Kv, uint8_t bits) {
  return std::bit_cast<float>((bits & 0x80u) << 24 | (bits & 0x7Fu) << 20) * 0x1p120f;
}

// The element nearest to x. Where the scale is zero or not finite, x may be anything.
template <typename E>
QWEN2_HOST_DEVICE static inline uint8_t kv_element(float x, const KvScale& scale) {
  return kv_encode(E{}, scale.inverse > 0 ? x * scale.inverse : 0.0f);
}

}  // namespace qwen2
