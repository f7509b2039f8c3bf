// residual[t, i] += x[t, i], then out[t, :] = rms_norm(residual[t, :]) · weight
//
// The sum is rounded to the dtype of the residual, and the norm is taken of the rounded sum, as a model computes that
// stores its residual stream. The rest as in rms_norm. x and out must not be the residual; out may be x itself.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct AddRmsNormArgs {
  Tensor x;         // activation[T, H]
  Tensor residual;  // dtype of x[T, H], read and written
  Tensor weight;    // f32[H]
  Tensor out;       // dtype of x[T, H]
  float eps;
};
QWEN2_FIELDS(AddRmsNormArgs, x, residual, weight, out, eps)

void check(Contract& contract, const AddRmsNormArgs& args);

}  // namespace qwen2
