// Tensors and calls in words, for messages.
#pragma once

#include <string>

#include "core/op.h"

namespace qwen2 {

// "bf16[7, 896]", or with strides "bf16[7, 896] strides [1152, 1]".
std::string to_string(const Tensor& t);
// "rms_norm(x bf16[7, 896], weight f32[896], out bf16[7, 896], eps 1e-06)"
std::string describe_call(const OpInfo& op, const void* args);

}  // namespace qwen2
