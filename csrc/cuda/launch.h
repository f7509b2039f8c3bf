// The one way to launch a kernel.
#pragma once

#include "cuda/context.h"
#include "cuda/status.h"

namespace qwen2::cuda {

struct Launch {
  dim3 blocks;
  dim3 threads;
  size_t shared_bytes = 0;
  // May begin before the launch in front of it ends: the kernel calls griddepcontrol_wait before it reads or writes what
  // others touch.
  bool dependent = false;
};

// What a kernel needs without asking for more.
constexpr size_t default_shared_bytes = 48 << 10;

// Arguments are converted to the kernel's parameters and copied.
template <typename... Parameters, typename... Arguments>
void launch(Context& context, void (*kernel)(Parameters...), const Launch& how, Arguments&&... arguments) {
  if (how.shared_bytes > default_shared_bytes)
    require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(how.shared_bytes)),
            "asking for shared memory");
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = how.blocks;
  config.blockDim = how.threads;
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = context.stream();
  config.attrs = &early;
  config.numAttrs = how.dependent && context.device().compute_capability >= 90 ? 1 : 0;
  require(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "a launch");
}

}  // namespace qwen2::cuda
