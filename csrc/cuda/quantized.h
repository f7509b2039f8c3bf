// The layout of quantized weights.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace qwen2::cuda {

constexpr uint64_t quantized_bytes(DType dtype, int64_t rows, int64_t columns, int32_t group) {
  const int64_t padded = (rows + 15) / 16 * 16;
  return static_cast<uint64_t>(padded * (dtype == DType::int4 ? columns / 2 : columns) + padded * (columns / group) * 4);
}

}  // namespace qwen2::cuda
