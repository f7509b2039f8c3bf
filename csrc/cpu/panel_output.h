// From the fp32 sums of a panel, [64], to a row of an output: under the products of bf16 and of quantized weights.
#pragma once

#include "cpu/simd.h"

namespace qwen2::cpu::QWEN2_SIMD {

// A panel of a swiglu weight holds 32 rows of gate, then the 32 rows of up that they meet.
constexpr int64_t swiglu_rows = panel_rows / 2;

template <typename T>
inline void store_first(T* out, F32 value, int count) {
  if (count >= lanes) {
    store(out, value);
  } else {
    store(out, value, count);
  }
}

// out[0 … count) = sums + bias, rounded; bias may be null.
template <typename T>
inline void store_sums(const float* sums, const float* bias, T* out, int count) {
  for (int i = 0; i < count; i += lanes) {
    F32 sum = load(sums + i);
    if (bias) sum = add(sum, load(bias + i, count - i < lanes ? count - i : lanes));
    store_first(out + i, sum, count - i);
  }
}

// out[0 … count) = silu(gate) · up
inline void store_swiglu(const float* sums, bf16* out, int count) {
  for (int i = 0; i < count; i += lanes) {
    const F32 gate = load(sums + i), up = load(sums + swiglu_rows + i);
    store_first(out + i, div(mul(gate, up), add(splat(1.0f), exp(sub(zero(), gate)))), count - i);
  }
}

// What products call with the sums of each panel, [tokens][64], for linear and for swiglu.
template <typename T>
struct LinearOutput {
  const Tensor& out;
  const float* bias;  // or null

  LinearOutput(const Tensor& out, const OptionalTensor& bias)
      : out(out), bias(bias.present() ? bias.as<float>() : nullptr) {}

  void operator()(int64_t panel, int64_t first, int64_t tokens, const float* sums) const {
    const int64_t n = panel * panel_rows, left = out.shape[1] - n;
    const int count = static_cast<int>(left < panel_rows ? left : panel_rows);
    for (int64_t t = 0; t < tokens; ++t)
      store_sums(sums + t * panel_rows, bias ? bias + n : nullptr, out.row<T>(first + t) + n, count);
  }
};

struct SwigluOutput {
  const Tensor& out;

  void operator()(int64_t panel, int64_t first, int64_t tokens, const float* sums) const {
    const int64_t i = panel * swiglu_rows, left = out.shape[1] - i;
    const int count = static_cast<int>(left < swiglu_rows ? left : swiglu_rows);
    for (int64_t t = 0; t < tokens; ++t) store_swiglu(sums + t * panel_rows, out.row<bf16>(first + t) + i, count);
  }
};

}  // namespace qwen2::cpu::QWEN2_SIMD
