// out[t, i] = x[t, i] / sqrt(mean_i(x[t, i]²) + eps) · weight[i]      (RMSNorm, arXiv:1910.07467)
//
// The mean and the product are computed in fp32 and rounded once, to the dtype of `out`. Rows of x and out may be
// strided; out may be x itself.
// Tolerance: one rounding of the output plus H · 2⁻²⁴ relative.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct RmsNormArgs {
  Tensor x;       // activation[T, H]
  Tensor weight;  // f32[H]
  Tensor out;     // dtype of x[T, H]
  float eps;
};
QWEN2_FIELDS(RmsNormArgs, x, weight, out, eps)

void check(Contract& contract, const RmsNormArgs& args);

}  // namespace qwen2
