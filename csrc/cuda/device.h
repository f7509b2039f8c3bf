// CUDA devices: NVIDIA GPUs of compute capability 8.0 and later.
#pragma once

#include <span>

#include "core/device_api.h"

namespace qwen2::cuda {

DeviceApi device_api(std::span<const Kernel> kernels);

}  // namespace qwen2::cuda
