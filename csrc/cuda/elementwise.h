// The words of kernels that go over rows element by element.
#pragma once

#include <algorithm>

#include "core/tensor.h"
#include "cuda/bf16.h"
#include "cuda/launch.h"

namespace qwen2::cuda {

// A matrix of bf16 whose rows may be strided, as a kernel argument.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;  // elements
  __device__ T* row(int64_t i) const { return data + i * stride; }
};

template <typename T>
Rows<T> rows_of(const Tensor& t) {
  return {t.as<T>(), t.strides[0]};
}

// Whether rows of `columns` elements can be touched 16 bytes at a time.
inline bool vectorizable(const Tensor& t, int64_t columns) {
  const int64_t elements = 16 / size_of(t.dtype);
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && columns % elements == 0 &&
         (t.shape[0] <= 1 || t.strides[0] % elements == 0);
}

// f32 activations exist on `reference` only.
inline void require_bf16(const char* op, const Tensor& x) {
  if (x.dtype != DType::bf16)
    fail("unsupported", "%s: CUDA devices compute on bf16 activations, not %s; use the reference device", op,
         name_of(x.dtype));
}

// Blocks for `items` threads of work, at most `most`: kernels stride over what is left.
inline unsigned blocks_for(int64_t items, int threads, int64_t most = 1 << 20) {
  return static_cast<unsigned>(std::clamp<int64_t>((items + threads - 1) / threads, 1, most));
}

__device__ inline int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t all_threads() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

}  // namespace qwen2::cuda
