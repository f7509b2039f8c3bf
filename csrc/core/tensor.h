// A view of device memory: what an operation's argument struct holds. Plain data: it crosses the C boundary to device
// libraries. It owns nothing; the queue keeps the storage behind it alive.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace qwen2 {

enum class Layout : int32_t {
  // Element [i, j, …] is at data + i·strides[0] + j·strides[1] + …
  strided = 0,
  // The device's own order for the weight of `linear`, written by `linear_pack`; only shape and dtype are public.
  // That of int4 and int8 weights is written by the pack operations of these.
  linear_weight = 1,
  // The same for the fused gate and up weights of `swiglu`, written by `swiglu_pack`.
  swiglu_weight = 2,
};

constexpr int max_rank = 4;

struct Tensor {
  void* data;
  int64_t bytes;  // from data to the end of its storage
  DType dtype;
  Layout layout;
  int32_t rank;
  int32_t group;  // of int4 and int8: columns that share a scale; otherwise 0
  int64_t shape[max_rank];
  int64_t strides[max_rank];  // in elements

  template <typename T>
  QWEN2_HOST_DEVICE T* as() const {
    return static_cast<T*>(data);
  }
  // The start of row i, for matrices whose rows may be strided.
  template <typename T>
  QWEN2_HOST_DEVICE T* row(int64_t i) const {
    return static_cast<T*>(data) + i * strides[0];
  }
  int64_t elements() const {
    int64_t product = 1;
    for (int i = 0; i < rank; ++i) product *= shape[i];
    return product;
  }
};

// The same, absent when data is null.
struct OptionalTensor : Tensor {
  QWEN2_HOST_DEVICE bool present() const { return data != nullptr; }
};

}  // namespace qwen2
