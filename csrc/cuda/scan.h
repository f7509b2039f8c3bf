// Sums of integers and maxima over a block of any number of whole warps. Integers, so that their order does not matter.
// Not inlined: kernels of many phases call them everywhere.
#pragma once

#include "cuda/reduce.h"

namespace qwen2::cuda {

using Wide = unsigned long long;

constexpr int most_warps = 32;

struct ScanShared {
  Wide warps[most_warps];
};

__device__ inline int block_warps() { return static_cast<int>(blockDim.x) / warp_size; }

struct Scan {
  Wide before;  // the sum of the threads in front of this one
  Wide total;   // of all
};

// Every thread of the block calls it. A barrier at its beginning lets shared memory be read by all before it is reused.
__device__ __attribute__((noinline)) inline Scan block_scan(Wide x, ScanShared& shared) {
  Wide sum = x;
  for (int lanes = 1; lanes < warp_size; lanes *= 2) {
    const Wide other = __shfl_up_sync(full_warp, sum, static_cast<unsigned>(lanes));
    if (lane_index() >= lanes) sum += other;
  }
  __syncthreads();
  if (lane_index() == warp_size - 1) shared.warps[warp_index()] = sum;
  __syncthreads();
  Scan scan{sum - x, 0};
  for (int warp = 0; warp < block_warps(); ++warp) {
    if (warp < warp_index()) scan.before += shared.warps[warp];
    scan.total += shared.warps[warp];
  }
  return scan;
}

// The largest of the threads' values, for every thread; with the same barrier.
__device__ __attribute__((noinline)) inline Wide block_max(Wide x, ScanShared& shared) {
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) {
    const Wide other = __shfl_xor_sync(full_warp, x, lanes);
    x = other > x ? other : x;
  }
  __syncthreads();
  if (lane_index() == 0) shared.warps[warp_index()] = x;
  __syncthreads();
  for (int warp = 0; warp < block_warps(); ++warp) x = shared.warps[warp] > x ? shared.warps[warp] : x;
  return x;
}

}  // namespace qwen2::cuda
