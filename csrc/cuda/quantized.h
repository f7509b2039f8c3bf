// The layout of int4 and int8 weights: in the order in which lanes hold operand A of mma.m16n8k16.
//
// Rows come in groups of 16, as in matmul.h: of swiglu 8 rows of gate, then the 8 rows of up that they meet. Along K a
// group is a sequence of units of 128 columns. Three parts follow one another:
//
//   weights  [row group][unit][load][lane] 16 bytes
//   scales   f16[row group][unit][8][scale group of the unit][2], of rows g and g + 8
//   zeros    u8, the same; of int4 only
//
// Lane (g, t) = (lane / 4, lane % 4) holds rows g and g + 8, of every 32 columns the 8 from 8t on: the ones that it gets
// of x in one load of 16 bytes. Of these, columns 4s … 4s + 3 are its part of step s, of 16 columns over all lanes.
//
// Columns beyond K are zeros, rows beyond the last one have zero for a scale. A unit has one scale group of 128 columns
// or four of 32: a weight whose groups are of 64 keeps each scale twice.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/tensor.h"

namespace qwen2::cuda {

constexpr int quantized_unit = 128;  // columns

// Columns that share a scale, as kept.
constexpr int kept_group(int32_t group) { return group == quantized_unit ? quantized_unit : 32; }

struct QuantizedLayout {
  int64_t row_groups, units;
  int scale_groups, unit_bytes;  // of a unit of 16 rows
  bool zeros;

  constexpr QuantizedLayout(DType dtype, int64_t rows, int64_t columns, int32_t group)
      : row_groups((rows + 15) / 16),
        units((columns + quantized_unit - 1) / quantized_unit),
        scale_groups(quantized_unit / kept_group(group)),
        unit_bytes(16 * quantized_unit / (dtype == DType::int4 ? 2 : 1)),
        zeros(dtype == DType::int4) {}
  explicit QuantizedLayout(const Tensor& weight)
      : QuantizedLayout(weight.dtype, weight.shape[0], weight.shape[1], weight.group) {}

  constexpr int64_t all_units() const { return row_groups * units; }
  constexpr int64_t scales_at() const { return all_units() * unit_bytes; }
  constexpr int64_t zeros_at() const { return scales_at() + all_units() * scale_groups * 32; }
  constexpr int64_t bytes() const { return zeros_at() + (zeros ? all_units() * scale_groups * 16 : 0); }
};

constexpr uint64_t quantized_bytes(DType dtype, int64_t rows, int64_t columns, int32_t group) {
  return static_cast<uint64_t>(QuantizedLayout(dtype, rows, columns, group).bytes());
}

// 4.19 and 8.13 bits a weight.
static_assert(quantized_bytes(DType::int4, 8192, 8192, 128) == 8192 * 8192 / 2 + 8192 * 64 * 3);
static_assert(quantized_bytes(DType::int8, 8192, 8192, 128) == 8192 * 8192 + 8192 * 64 * 2);

// A weight as kernels see it.
struct QuantizedWeight {
  char* weights;
  uint16_t* scales;  // f16
  uint8_t* zeros;    // of int8 none
  int row_groups, units;
};

inline QuantizedWeight quantized_weight(const Tensor& weight) {
  const QuantizedLayout layout(weight);
  char* data = weight.as<char>();
  return {data, reinterpret_cast<uint16_t*>(data + layout.scales_at()),
          reinterpret_cast<uint8_t*>(data + layout.zeros_at()), static_cast<int>(layout.row_groups),
          static_cast<int>(layout.units)};
}

}  // namespace qwen2::cuda
