// The operations of the reference device.
#pragma once

#include "core/op.h"

namespace qwen2 {

// In the order of ops.def.
const Kernel* reference_kernels();

}  // namespace qwen2
