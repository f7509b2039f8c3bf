// The CUDA device's library, opened at run time from beside this one.
#pragma once

#include <string>

#include "core/device_api.h"

namespace qwen2::addon {

// Its device table, or null and the reason why it can't be used.
const DeviceApi* cuda_device_api(std::string* reason);

}  // namespace qwen2::addon
