// The norm of one row, shared by rms_norm and add_rms_norm.
#pragma once

#include <cmath>

#include "cpu/simd.h"

namespace qwen2::cpu::QWEN2_SIMD {

// Four accumulators hide the latency of the multiply-add.
inline float sum_of_squares(const bf16* x, int64_t size) {
  F32 acc[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * lanes <= size; i += 4 * lanes)
    for (int j = 0; j < 4; ++j) {
      const F32 v = load(x + i + j * lanes);
      acc[j] = fma(v, v, acc[j]);
    }
  for (; i < size; i += lanes) {
    const F32 v = load(x + i, static_cast<int>(size - i < lanes ? size - i : lanes));
    acc[0] = fma(v, v, acc[0]);
  }
  return sum(add(add(acc[0], acc[1]), add(acc[2], acc[3])));
}

// out = x / rms(x) · weight
inline void normalize_row(const bf16* x, const float* weight, bf16* out, int64_t size, float eps) {
  const F32 scale = splat(1.0f / std::sqrt(sum_of_squares(x, size) / static_cast<float>(size) + eps));
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) store(out + i, mul(mul(load(x + i), scale), load(weight + i)));
  const int rest = static_cast<int>(size - i);
  if (rest > 0) store(out + i, mul(mul(load(x + i, rest), scale), load(weight + i, rest)), rest);
}

// Tokens a thread takes at a time: a few microseconds of work.
constexpr int64_t norm_piece = 8;

}  // namespace qwen2::cpu::QWEN2_SIMD
