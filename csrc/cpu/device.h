// The CPU device: host memory, a thread pool, and kernels of one SIMD level.
#pragma once

#include <span>

#include "core/device_api.h"
#include "cpu/context.h"

namespace qwen2::cpu {

const char* name_of(Simd level);
bool supported(Simd level);
// The fastest level that this processor has.
Simd best_level();

DeviceApi device_api(Simd level, std::span<const Kernel> kernels);

}  // namespace qwen2::cpu
