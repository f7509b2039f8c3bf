// linear:       out[t, n] = Σ_k x[t, k] · weight[n, k] + bias[n]
// linear_pack:  weight[row_offset + r, :] = source[r, :], in the device's own layout
//
// Accumulated in fp32 and rounded once, to the dtype of `out` (f32 for the LM head). The order of summation over k does
// not depend on T: a row gives the same bits alone and in company. On CUDA this holds within each of five bands of T: to
// 32, 64, 128, 256, and more; with `batch_invariant` there is one band, whose tiles have room for 64 tokens even where
// there is one, and which beyond 256 tokens pays for the parts that K is in. Rows of x and out may be strided; CUDA
// devices take K in multiples of 8 and rows of x at multiples of 16 bytes.
// Tolerance against float64: one rounding of the output plus K · 2⁻²⁴ · Σ|x·w|.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct LinearArgs {
  Tensor x;             // activation[T, K]
  Tensor weight;        // bf16[N, K], linear_weight layout
  OptionalTensor bias;  // f32[N]
  Tensor out;           // dtype of x or f32[T, N]; not x
  int32_t batch_invariant;  // 0 or 1
};
QWEN2_FIELDS(LinearArgs, x, weight, bias, out, batch_invariant)

// Several sources may fill one weight: q, k and v become one matrix. What is stored is bf16.
struct LinearPackArgs {
  Tensor source;  // f32, f16 or bf16[R, K]
  Tensor weight;  // bf16[N, K], linear_weight layout, written
  int32_t row_offset;
};
QWEN2_FIELDS(LinearPackArgs, source, weight, row_offset)

void check(Contract& contract, const LinearArgs& args);
void check(Contract& contract, const LinearPackArgs& args);

}  // namespace qwen2
