// The activations of a product with quantized weights, made once an operation, in the order in which products read them:
// for each group of columns all tokens, for each token its columns as steps of 32 bits, which one lane of a weight's
// operand meets.
//   rounded  a step is four columns of 8 bits, symmetric, with a scale for each group of each token
//   exact    a step is two columns of bf16, in the order in which weights are unpacked
#pragma once

#include "cpu/quantized.h"
#include "cpu/simd.h"

namespace qwen2::cpu::QWEN2_SIMD {

struct Activations {
  int64_t tokens, steps;  // steps of a group
  uint32_t* x;            // [G][T][steps]
  float* scales;          // [G][T], of exact x ones
  float* minus_sums;      // [G][T]: −Σ of a group of x without its scale, which weights' zeros are multiplied with
};

inline void round_group(const bf16* x, int64_t group, int8_t* to, float& scale, float& minus_sum) {
  F32 largest = zero(), not_finite = zero();
  for (int64_t k = 0; k < group; k += lanes) {
    const F32 value = load(x + k);
    largest = max(largest, abs(value));
    not_finite = fma(value, zero(), not_finite);
  }
  // Not less than 2⁻¹²⁶, so that its inverse is a number. A NaN, if x has one or an infinity, stays one by way of scale.
  const float step = max_lane(largest) / 127.0f, held = step > 0x1p-126f ? step : 0x1p-126f;
  const F32 inverse = splat(1.0f / held);
  scale = held + sum(not_finite);
  I32 minus = splat_int(0);
  for (int64_t k = 0; k < group; k += lanes) {
    // Within bounds, beside a NaN too: what no int holds may not be summed.
    const F32 bounded = max(min(mul(load(x + k), inverse), splat(127.0f)), splat(-127.0f));
    const I32 rounded = round_to_int(bounded);
    narrow_to_bytes(to + k, rounded);
    minus = sub(minus, rounded);
  }
  minus_sum = static_cast<float>(sum(minus));
}

// Columns 0 2, 1 3 of four for int8; 0 2, 4 6, 1 3, 5 7 of eight for int4: how byte_pairs and nibble_pairs unpack them.
inline void order_group(const bf16* x, int64_t group, DType dtype, bf16* to, float& minus_sum) {
  F32 minus = zero();
  for (int64_t k = 0; k < group; k += lanes) minus = sub(minus, load(x + k));
  minus_sum = sum(minus);
  const int64_t columns = columns_of_word(dtype);
  for (int64_t k = 0; k < group; k += columns)
    for (int64_t half = 0; half < 2; ++half)
      for (int64_t first = half; first < columns; first += 4) {
        *to++ = x[k + first];
        *to++ = x[k + first + 2];
      }
}

template <bool rounded>
Activations activations(Context& context, const Tensor& x, const QuantizedWeight& weight) {
  const int64_t tokens = x.shape[0], groups = weight.groups, group = weight.group;
  const int64_t steps = rounded ? group / 4 : group / 2;
  const size_t words = static_cast<size_t>(tokens * groups * steps), sums = static_cast<size_t>(tokens * groups);
  auto* memory = static_cast<uint32_t*>(context.scratch(-1, (words + 2 * sums) * sizeof(uint32_t)));
  auto* scales = reinterpret_cast<float*>(memory + words);
  const Activations made{tokens, steps, memory, scales, scales + sums};
  // So many are rounded in 3.4 µs (AVX-512): with less to do, another thread is not worth its waking.
  const int64_t piece = 16384 / (groups * group) + 1;
  parallel(context, tokens, piece, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t at = g * tokens + t;
        const bf16* source = x.row<bf16>(t) + g * group;
        uint32_t* to = made.x + at * steps;
        if constexpr (rounded) {
          round_group(source, group, reinterpret_cast<int8_t*>(to), made.scales[at], made.minus_sums[at]);
        } else {
          order_group(source, group, weight.dtype, reinterpret_cast<bf16*>(to), made.minus_sums[at]);
          made.scales[at] = 1;
        }
      }
  });
  return made;
}

}  // namespace qwen2::cpu::QWEN2_SIMD
