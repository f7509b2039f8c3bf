// out[i] = source[i], in the dtype of out
//
// Turns the checkpoint's norm weights and biases, of whatever float type, into the f32 that devices keep them in.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct ConvertArgs {
  Tensor source;  // f32, f16 or bf16[N]
  Tensor out;     // f32[N]
};
QWEN2_FIELDS(ConvertArgs, source, out)

void check(Contract& contract, const ConvertArgs& args);

}  // namespace qwen2
