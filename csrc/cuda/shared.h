// Shared memory of a block, as a struct that the kernel names.
#pragma once

#include <cuda_runtime.h>

namespace qwen2::cuda {

// All of it is dynamic: the launch says how much. Aligned to 1,024 bytes, as swizzles and descriptors want.
template <typename T>
__device__ inline T& shared() {
#if defined(QWEN2_EMULATED)
  return *reinterpret_cast<T*>(emulation::shared_memory());
#else
  extern __shared__ __align__(1024) unsigned char qwen2_shared[];
  return *reinterpret_cast<T*>(qwen2_shared);
#endif
}

}  // namespace qwen2::cuda
