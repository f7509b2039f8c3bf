// The words of reference kernels.
#pragma once

#include "core/error.h"
#include "core/tensor.h"

namespace qwen2::reference {

// Calls body with a value of the element type of an activation: bf16 or float.
template <typename Body>
void for_activation(DType dtype, Body body) {
  if (dtype == DType::bf16) {
    body(bf16{});
  } else {
    body(float{});
  }
}

// Element i of a row of any float dtype.
inline float element(const Tensor& t, const void* row, int64_t i) {
  if (t.dtype == DType::bf16) return to_float(static_cast<const bf16*>(row)[i]);
  if (t.dtype == DType::f16) return to_float(static_cast<const f16*>(row)[i]);
  return static_cast<const float*>(row)[i];
}

// Row i, whatever the dtype.
inline void* row_of(const Tensor& t, int64_t i) {
  return static_cast<char*>(t.data) + i * t.strides[0] * size_of(t.dtype);
}

}  // namespace qwen2::reference
