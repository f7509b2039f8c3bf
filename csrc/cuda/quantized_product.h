// x · weightᵀ with int4 and int8 weights: what both families of kernels share.
//
// Of a scale group, raw products Σ(16 + q)·x are summed by the tensor cores, then added as scale · (Σ(16 + q)·x −
// (16 + zero) · Σx), in fp32: exact but for the sums' own rounding. Σx is made once a block: x as operand A, ones as B,
// and a lane's 16 bytes of x as rows g and g + 8, so that one mma adds 32 columns.
#pragma once

#include "cuda/matmul.h"
#include "cuda/quantized_codec.h"
#include "cuda/reduce.h"

namespace qwen2::cuda {

// A kernel's operands.
struct QuantizedProduct {
  const bf16* x;  // [tokens, K], rows x_stride elements apart, at multiples of 16 bytes
  int64_t x_stride;
  QuantizedWeight weight;
  int tokens, K;
  int parts = 1, together = 1, turns = 0;  // of the family of few tokens: quantized_plan.h
};

// Consecutive units of a row group.
struct UnitRange {
  int first_unit, units;
  // Parts `first_part` … of `all` parts of K.
  __device__ static UnitRange of(int units, int all, int first_part, int parts) {
    const int first = static_cast<int>(int64_t{units} * first_part / all);
    return {first, static_cast<int>(int64_t{units} * (first_part + parts) / all) - first};
  }
};

// Σx of eight tokens over 32 columns, of which a lane has those of its token. With `sums` the even steps and the odd ones.
__device__ inline void add_columns(float (&sums)[4], const uint4& x) {
  constexpr uint32_t ones = 0x3F803F80;
  mma_m16n8k16(sums, {x.x, x.z, x.y, x.w}, {ones, ones});
}

// A lane's part of a unit of a row group.
template <typename Codec, int scale_groups>
struct UnitRegisters {
  uint4 weights[Codec::unit_loads];
  uint32_t scales[scale_groups];  // of rows g (lower half) and g + 8
  uint32_t zeros[(scale_groups + 1) / 2];

  // Unit `unit` of the whole weight. Where not `valid`, nothing is read.
  __device__ void load(const QuantizedWeight& weight, int unit, bool valid) {
#pragma unroll
    for (int i = 0; i < Codec::unit_loads; ++i) load_weights(i, weight, unit, valid);
    load_scales(weight, unit, valid);
  }
  __device__ void load_weights(int i, const QuantizedWeight& weight, int unit, bool valid) {
    const char* from = weight.weights + (int64_t{unit} * (Codec::unit_loads * 512) + lane_index() * 16);
    load_streaming_if(weights[i], from + i * 512, valid);
  }
  __device__ void load_scales(const QuantizedWeight& weight, int unit, bool valid) {
    if (!valid) return;
    const int64_t at = int64_t{unit * 8 + lane_index() / 4} * (scale_groups * 2);
    load_words<scale_groups>(scales, weight.scales + at);
    if constexpr (Codec::has_zeros && scale_groups == 1) zeros[0] = *reinterpret_cast<const uint16_t*>(weight.zeros + at);
    if constexpr (Codec::has_zeros && scale_groups > 1) load_words<scale_groups / 2>(zeros, weight.zeros + at);
  }

  // Of row g or g + 8.
  __device__ float scale(int group, int high_row) const {
    return cvt_float(static_cast<uint16_t>(scales[group] >> 16 * high_row));
  }
  // 16 + zero: what stands for a weight of zero.
  __device__ float zero(int group, int high_row) const {
    return __uint_as_float(0x41800000u + ((zeros[group / 2] >> (16 * (group % 2) + 8 * high_row) & 255u) << 19));
  }

  template <int words>
  __device__ static void load_words(uint32_t (&to)[words], const void* from) {
    if constexpr (words == 1) {
      to[0] = *static_cast<const uint32_t*>(from);
    } else if constexpr (words == 2) {
      const uint2 v = *static_cast<const uint2*>(from);
      to[0] = v.x, to[1] = v.y;
    } else {
      static_assert(words == 4);
      const uint4 v = *static_cast<const uint4*>(from);
      to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    }
  }
};

// sums += of one scale group: scale · (Σ(bias + q)·x − (bias + zero) · Σx), for rows g and g + 8 and two tokens.
template <typename Codec, typename Unit>
__device__ inline void add_scaled(float (&sums)[4], const float (&products)[4], const Unit& unit, int group, float2 x) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float product = products[i];
    if constexpr (Codec::has_zeros) product = fmaf(-unit.zero(group, i / 2), i % 2 == 0 ? x.x : x.y, product);
    sums[i] = fmaf(unit.scale(group, i / 2), product, sums[i]);
  }
}

}  // namespace qwen2::cuda
