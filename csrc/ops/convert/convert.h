// out[i] = source[i], rounded to the dtype of out
//
// Turns the checkpoint's norm weights and biases, of whatever float type, into the f32 that devices keep them in, and an
// untied embedding table into bf16. Vectors, or matrices of contiguous rows.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct ConvertArgs {
  Tensor source;  // f32, f16 or bf16[N] or [R, N]
  Tensor out;     // f32 or bf16, of the same shape, contiguous like the source
};
QWEN2_FIELDS(ConvertArgs, source, out)

void check(Contract& contract, const ConvertArgs& args);

}  // namespace qwen2
