// Sums and maxima over a warp and a block, in an order that is always the same.
#pragma once

#include <cuda_runtime.h>

namespace qwen2::cuda {

constexpr int warp_size = 32;
constexpr unsigned full_warp = 0xFFFFFFFFu;

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % warp_size; }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / warp_size; }

// Every lane gets the sum of all.
__device__ inline float warp_sum(float x) {
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(full_warp, x, lanes);
  return x;
}

__device__ inline float warp_max(float x) {
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(full_warp, x, lanes));
  return x;
}

// Every thread gets the sum over the block. `scratch` has a float a warp; it may be used again after a barrier.
template <int threads>
__device__ inline float block_sum(float x, float* scratch) {
  constexpr int warps = threads / warp_size;
  x = warp_sum(x);
  if (lane_index() == 0) scratch[warp_index()] = x;
  __syncthreads();
  x = scratch[0];
  for (int i = 1; i < warps; ++i) x += scratch[i];
  return x;
}

}  // namespace qwen2::cuda
