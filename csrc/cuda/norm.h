// The norm of one row by one block, shared by rms_norm and add_rms_norm.
#pragma once

#include "cuda/elementwise.h"
#include "cuda/reduce.h"
#include "cuda/shared.h"

namespace qwen2::cuda {

// 8,192 columns are then two vectors of eight a thread.
constexpr int norm_threads = 512;

struct NormShared {
  float sums[norm_threads / warp_size];
};

// Where a launch's rows can be touched 16 bytes at a time, and where they can't.
constexpr int norm_vector = vector_bf16;

// out = x / rms(x) · weight; `load` gives elements i … of x and is called twice for each.
template <int width, typename Load>
__device__ inline void normalize_row(const Load& load, const float* weight, bf16* out, int64_t size, float eps) {
  float sum = 0;
  for (int64_t i = threadIdx.x * width; i < size; i += norm_threads * width) {
    float x[width];
    load(x, i);
    for (int j = 0; j < width; ++j) sum += x[j] * x[j];
  }
  sum = block_sum<norm_threads>(sum, shared<NormShared>().sums);
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(size) + eps);
  for (int64_t i = threadIdx.x * width; i < size; i += norm_threads * width) {
    float x[width];
    load(x, i);
    for (int j = 0; j < width; ++j) x[j] = x[j] * scale * weight[i + j];
    store_elements(out + i, x);
  }
}

}  // namespace qwen2::cuda
