// Tensor maps: what cp_async_bulk_tensor_2d must know of a matrix in global memory.
#pragma once

#include <cudaTypedefs.h>

#include <cstdint>

namespace qwen2::cuda {

// Columns of a box of bf16: the 128 bytes that the swizzle repeats over.
constexpr uint32_t tensor_box_columns = 64;

// Of a row-major bf16 matrix [rows, columns] whose rows begin `row_stride` elements apart, in boxes of
// [box_rows, tensor_box_columns], box_rows at most 256, swizzled over 128 bytes. Address and stride are multiples of 16
// bytes. A kernel takes the map by value, as `const __grid_constant__ CUtensorMap`.
CUtensorMap tensor_map(const void* matrix, uint64_t rows, uint64_t columns, uint64_t row_stride, uint32_t box_rows);

}  // namespace qwen2::cuda
