// Writes rows of a checkpoint's matrix into panels (cpu/kernel.h): under linear_pack and swiglu_pack.
#pragma once

#include "cpu/simd.h"

namespace qwen2::cpu::QWEN2_SIMD {

constexpr int64_t pack_pairs = 16;  // 64 bytes of a source row at a time: 16 cache lines of the panel, 4 rows to a line

// dst[pair p] = columns 2p and 2p + 1 of `source`, for up to pack_pairs pairs from `column` on; a missing one is zero.
template <typename T>
inline void read_pairs(const T* source, int64_t column, int64_t columns, uint32_t* dst) {
  for (int64_t j = 0; j < pack_pairs; ++j) {
    const int64_t k = column + 2 * j;
    uint32_t low = 0, high = 0;
    if constexpr (sizeof(T) == sizeof(bf16) && __is_same(T, bf16)) {
      if (k < columns) low = source[k].bits;
      if (k + 1 < columns) high = source[k + 1].bits;
    } else {
      if (k < columns) low = to_bf16(to_float(source[k])).bits;
      if (k + 1 < columns) high = to_bf16(to_float(source[k + 1])).bits;
    }
    dst[j] = low | high << 16;
  }
}

// Rows [first, first + rows) of the source become rows [panel_row, …) of one panel.
template <typename T>
inline void pack_rows(const Tensor& source, int64_t first, int64_t rows, bf16* panel, int64_t panel_row) {
  const int64_t columns = source.shape[1], pairs = panel_pairs(columns);
  auto* words = reinterpret_cast<uint32_t*>(panel) + panel_row;
  for (int64_t p = 0; p < pairs; p += pack_pairs) {
    const int64_t here = pairs - p < pack_pairs ? pairs - p : pack_pairs;
    const bool whole = 2 * (p + pack_pairs) <= columns;
    for (int64_t r = 0; r < rows; ++r) {
      const T* row = source.row<T>(first + r);
      uint32_t line[pack_pairs];
      if (whole && __is_same(T, bf16)) {
        __builtin_memcpy(line, row + 2 * p, sizeof line);
      } else {
        read_pairs(row, 2 * p, columns, line);
      }
      for (int64_t j = 0; j < here; ++j) words[(p + j) * panel_rows + r] = line[j];
    }
  }
}

inline void zero_rows(bf16* panel, int64_t columns, int64_t begin, int64_t end) {
  auto* words = reinterpret_cast<uint32_t*>(panel);
  for (int64_t p = 0; p < panel_pairs(columns); ++p)
    for (int64_t r = begin; r < end; ++r) words[p * panel_rows + r] = 0;
}

// Source row r becomes row offset + r of a matrix of `total` rows, of which each panel holds `group` from its row `base`
// on. The padding behind the last row is zeroed with it.
template <typename T>
inline void pack_panels(Context& context, const Tensor& source, bf16* weight, int64_t offset, int64_t total,
                        int64_t group, int64_t base) {
  const int64_t rows = source.shape[0], columns = source.shape[1];
  if (rows == 0) return;
  const int64_t first_panel = offset / group, end_panel = (offset + rows + group - 1) / group;
  parallel(context, end_panel - first_panel, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = first_panel + begin; i < first_panel + end; ++i) {
      const int64_t low = i * group > offset ? i * group : offset;
      const int64_t high = (i + 1) * group < offset + rows ? (i + 1) * group : offset + rows;
      bf16* panel = weight + i * panel_stride(columns);
      pack_rows<T>(source, low - offset, high - low, panel, base + low - i * group);
      if (high == total) zero_rows(panel, columns, base + high - i * group, base + group);
    }
  });
}

inline void pack(Context& context, const Tensor& source, bf16* weight, int64_t offset, int64_t total, int64_t group,
                 int64_t base) {
  if (source.dtype == DType::bf16) return pack_panels<bf16>(context, source, weight, offset, total, group, base);
  if (source.dtype == DType::f16) return pack_panels<f16>(context, source, weight, offset, total, group, base);
  pack_panels<float>(context, source, weight, offset, total, group, base);
}

}  // namespace qwen2::cpu::QWEN2_SIMD
