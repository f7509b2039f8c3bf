// Stands in for NVIDIA's header of this name when kernels are compiled by a C++ compiler: the device language and the
// runtime API, as far as this project uses them.
#pragma once

#include "emulation/device_language.h"
#include "emulation/runtime_api.h"
