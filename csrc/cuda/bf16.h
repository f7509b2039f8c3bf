// bf16 in device code: pairs in 32 bits, sixteen bytes at a time where memory is touched.
#pragma once

#include "core/dtype.h"
#include "cuda/ptx.h"

namespace qwen2::cuda {

__device__ inline float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_half(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }

__device__ inline float load_float(const bf16* p) { return __uint_as_float(uint32_t{p->bits} << 16); }
__device__ inline float load_float(const float* p) { return *p; }
__device__ inline void store_float(bf16* p, float x) { p->bits = static_cast<uint16_t>(cvt_bf16x2(x, 0.0f)); }
__device__ inline void store_float(float* p, float x) { *p = x; }

// Of a checkpoint, whose elements may be f16 too.
__device__ inline float load_source(const bf16* p) { return load_float(p); }
__device__ inline float load_source(const float* p) { return *p; }
__device__ inline float load_source(const f16* p) {
  const uint32_t sign = uint32_t{p->bits} >> 15 << 31, exponent = p->bits >> 10 & 31, mantissa = p->bits & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7F800000u | mantissa << 13);
  if (exponent != 0) return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
  return __uint_as_float(sign | __float_as_uint(static_cast<float>(mantissa) * 0x1p-24f));  // zero and subnormals
}

// Bytes 0 and 2 of a word, whole numbers held as 128 more, exactly. 128 and the lower seven bits, less 128 or 256 as the
// eighth says.
__device__ inline uint32_t bf16_pair_of_bytes(uint32_t word) {
  constexpr uint32_t one = 0x3F803F80, plus_128 = 0x43004300, minus_128 = 0xC300C300;  // and a power more: ∓256
  return fma_bf16x2(lop3_and_or(word, 0x007F007F, plus_128), one, lop3_not_and_or(word, 0x00800080, minus_128));
}

constexpr int vector_bf16 = 8;  // of 16 bytes

// Eight bf16 as floats, from an address that is a multiple of 16.
__device__ inline void load_vector(float (&x)[vector_bf16], const bf16* from) {
  const uint4 v = *reinterpret_cast<const uint4*>(from);
  const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = low_half(pairs[i]);
    x[2 * i + 1] = high_half(pairs[i]);
  }
}

__device__ inline void store_vector(bf16* to, const float (&x)[vector_bf16]) {
  *reinterpret_cast<uint4*>(to) =
      make_uint4(cvt_bf16x2(x[0], x[1]), cvt_bf16x2(x[2], x[3]), cvt_bf16x2(x[4], x[5]), cvt_bf16x2(x[6], x[7]));
}

// The same, and single elements where rows do not begin at such addresses.
template <int width>
__device__ inline void load_elements(float (&x)[width], const bf16* from) {
  if constexpr (width == vector_bf16) {
    load_vector(x, from);
  } else {
    x[0] = load_float(from);
  }
}

template <int width>
__device__ inline void store_elements(bf16* to, const float (&x)[width]) {
  if constexpr (width == vector_bf16) {
    store_vector(to, x);
  } else {
    store_float(to, x[0]);
  }
}

}  // namespace qwen2::cuda
