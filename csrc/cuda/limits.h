// What a GPU can do at best, measured: the denominators of every "fraction of the machine's limit".
#pragma once

#include "core/device_api.h"
#include "cuda/context.h"

namespace qwen2::cuda {

DeviceLimits measure_limits(Context& context);

}  // namespace qwen2::cuda
