// The layout of quantized weights, at every SIMD level. Panels of 64 rows, as of bf16 weights; within one, groups of
// columns in order; within one
//   scales  f16[64]
//   zeros   u8[64], of int4 only
//   words   u32[group / 8][64] of int4, [group / 4][64] of int8: column k of a word's eight is the lower nibble of byte k
//           for k < 4, the upper nibble of byte k − 4 beyond; of its four, byte k (q + 128)
// So a vector of words, masked, is what a product of bytes takes: a row a lane, four columns each. Rows are padded with
// scales of zero.
#pragma once

#include "core/dtype.h"

namespace qwen2::cpu {

constexpr int64_t quantized_rows = 64;

constexpr int64_t quantized_group_bytes(DType dtype, int64_t group) {
  const int64_t scales = quantized_rows * 2;
  return dtype == DType::int4 ? scales + quantized_rows + quantized_rows * group / 2 : scales + quantized_rows * group;
}

constexpr uint64_t quantized_bytes(DType dtype, int64_t rows, int64_t columns, int32_t group) {
  const int64_t panels = (rows + quantized_rows - 1) / quantized_rows;
  return static_cast<uint64_t>(panels * (columns / group) * quantized_group_bytes(dtype, group));
}

}  // namespace qwen2::cpu
