// The runtime's errors as ours.
#pragma once

#include <cuda_runtime.h>

#include "core/error.h"

namespace qwen2::cuda {

inline void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next launch would report it again
  fail(status == cudaErrorMemoryAllocation ? "out_of_memory" : "internal", "%s failed: %s", what,
       cudaGetErrorString(status));
}

}  // namespace qwen2::cuda
