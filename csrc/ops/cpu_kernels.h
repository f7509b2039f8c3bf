// The operations of the CPU device, one table a SIMD level.
#pragma once

#include "core/op.h"
#include "cpu/context.h"

namespace qwen2 {

// In the order of ops.def.
const Kernel* cpu_kernels(cpu::Simd level);

}  // namespace qwen2
