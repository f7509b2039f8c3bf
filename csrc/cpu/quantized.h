// The layout of quantized weights, at every SIMD level. Panels of 64 rows, as of bf16 weights; within one, groups of
// columns in order; within one
//   scales  f16[64]
//   zeros   u8[64], of int4 only
//   words   u32[group / 8][64] of int4, [group / 4][64] of int8: column k of a word's eight is the lower nibble of byte k
//           for k < 4, the upper nibble of byte k − 4 beyond; of its four, byte k (q + 128)
// So a vector of words, masked, is what a product of bytes takes: a row a lane, four columns each. Rows are padded with
// scales of zero.
#pragma once

#include "core/tensor.h"

namespace qwen2::cpu {

constexpr int64_t quantized_rows = 64;

// What an int8 q is stored with.
constexpr int int8_zero = 128;

constexpr int64_t columns_of_word(DType dtype) { return dtype == DType::int4 ? 8 : 4; }

constexpr int64_t quantized_group_bytes(DType dtype, int64_t group) {
  const int64_t scales = quantized_rows * 2;
  return dtype == DType::int4 ? scales + quantized_rows + quantized_rows * group / 2 : scales + quantized_rows * group;
}

constexpr uint64_t quantized_bytes(DType dtype, int64_t rows, int64_t columns, int32_t group) {
  const int64_t panels = (rows + quantized_rows - 1) / quantized_rows;
  return static_cast<uint64_t>(panels * (columns / group) * quantized_group_bytes(dtype, group));
}

// A group of one panel.
struct QuantizedGroup {
  f16* scales;      // [64]
  uint8_t* zeros;   // [64]; int8 has none
  uint32_t* words;  // [group / columns of a word][64]
};

struct QuantizedWeight {
  uint8_t* data;
  DType dtype;
  int64_t rows, group, groups;

  explicit QuantizedWeight(const Tensor& weight)
      : data(weight.as<uint8_t>()),
        dtype(weight.dtype),
        rows(weight.shape[0]),
        group(weight.group),
        groups(weight.shape[1] / weight.group) {}

  int64_t panels() const { return (rows + quantized_rows - 1) / quantized_rows; }
  int64_t words_of_group() const { return group / columns_of_word(dtype); }

  QuantizedGroup at(int64_t panel, int64_t g) const {
    uint8_t* start = data + (panel * groups + g) * quantized_group_bytes(dtype, group);
    uint8_t* zeros = start + quantized_rows * sizeof(f16);
    uint8_t* words = dtype == DType::int4 ? zeros + quantized_rows : zeros;
    return {reinterpret_cast<f16*>(start), zeros, reinterpret_cast<uint32_t*>(words)};
  }
};

}  // namespace qwen2::cpu
