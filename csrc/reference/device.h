// The reference device: plain scalar kernels on one thread, the specification that the others are held to.
#pragma once

#include <span>

#include "core/device_api.h"

namespace qwen2::reference {

DeviceApi device_api(std::span<const Kernel> kernels);

}  // namespace qwen2::reference
