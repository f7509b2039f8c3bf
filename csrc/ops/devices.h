// The devices of this library, each with its kernels.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/device.h"

namespace qwen2 {

// Opens "reference" or "cpu". `variant` names a SIMD level of the CPU; empty: the best one.
std::shared_ptr<Device> open_host_device(const std::string& name, int threads, const std::string& variant);

// The SIMD levels that this processor has, best first.
std::vector<std::string> cpu_variants();

}  // namespace qwen2
