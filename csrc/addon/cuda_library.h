// Libraries of CUDA devices, opened at run time from beside this one: the real one, and for tests its emulation.
#pragma once

#include <memory>
#include <string>

#include "core/device.h"

namespace qwen2::addon {

// Whether a name is that of such a device: "cuda", "cuda:1", "cuda-emulated".
bool is_cuda(const std::string& name);

// Opens the device; device_unavailable and the reason where it can't be used. Starting the driver takes some 100 ms the
// first time, so not for the JavaScript thread then.
std::shared_ptr<Device> open_cuda_device(const std::string& name);

}  // namespace qwen2::addon
