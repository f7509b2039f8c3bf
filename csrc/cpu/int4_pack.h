// Writes matrices of AWQ and GPTQ checkpoints (core/int4.h) into panels (cpu/quantized.h): under linear_int4_pack and
// swiglu_int4_pack.
//
// A thread takes 1,024 rows, and of them eight columns at a time: 512 bytes of each of eight lines of AWQ's qweight, 4 KiB
// of a line of GPTQ's, become a line of words in each of the panels.
#pragma once

#include "core/int4.h"
#include "cpu/kernel.h"
#include "cpu/quantized.h"

namespace qwen2::cpu::QWEN2_SIMD {

// Rows of a weight that a matrix is part of: each panel holds `of_panel` of the `total` rows, from its row `base` on.
struct PanelRows {
  int64_t total, of_panel, base;
};

// Where nibbles of eight columns are in qweight, and where they go in a word.
struct EightColumns {
  const uint32_t* lines[8];
  int shifts[8];  // of GPTQ; of AWQ they depend on the row

  EightColumns(const Int4Source& source, int64_t first) {
    for (int64_t i = 0; i < 8; ++i) {
      const int64_t k = source.columns.present() ? source.columns.as<int32_t>()[first + i] : first + i;
      const bool awq = source.format == Int4Format::awq;
      lines[i] = source.qweight.row<uint32_t>(awq ? k : k / 8);
      shifts[i] = awq ? 0 : static_cast<int>(k % 8 * 4);
    }
  }
  // Bytes 0 … 3 hold columns 0 … 3 in their lower nibbles, 4 … 7 in their upper ones.
  static int place(int i) { return i < 4 ? 8 * i : 8 * (i - 4) + 4; }
};

// to[r] = the eight columns of row first + r of GPTQ.
inline void read_gptq(const EightColumns& columns, int64_t first, int64_t rows, uint32_t* to) {
  for (int64_t r = 0; r < rows; ++r) to[r] = 0;
  for (int i = 0; i < 8; ++i) {
    const uint32_t* line = columns.lines[i] + first;
    for (int64_t r = 0; r < rows; ++r) to[r] |= (line[r] >> columns.shifts[i] & 15u) << EightColumns::place(i);
  }
}

// to[r] = the eight columns of row first + r of AWQ, for `count` words of eight rows: nibbles are transposed within
// eight words, of as many words side by side as there are.
template <int count>
inline void read_awq(const EightColumns& columns, int64_t first, uint32_t* to) {
  uint32_t words[8][count];
  for (int i = 0; i < 8; ++i) __builtin_memcpy(words[i], columns.lines[i] + first / 8, sizeof words[i]);
  for (int n = 0; n < 8; ++n) {
    uint32_t row[count] = {};
    for (int i = 0; i < 8; ++i)
      for (int j = 0; j < count; ++j)
        row[j] |= (words[i][j] >> (4 * Int4Source::awq_nibble(n)) & 15u) << EightColumns::place(i);
    for (int j = 0; j < count; ++j) to[8 * j + n] = row[j];
  }
}

inline void read_awq(const EightColumns& columns, int64_t first, int64_t rows, uint32_t* to) {
  int64_t r = 0;
  for (; r + 64 <= rows; r += 64) read_awq<8>(columns, first + r, to + r);
  for (; r + 32 <= rows; r += 32) read_awq<4>(columns, first + r, to + r);
  for (; r < rows; r += 8) read_awq<1>(columns, first + r, to + r);
}

// Rows [begin, end) of a source that are rows [at, …) of a panel.
struct PanelPart {
  int64_t panel, begin, end, at;
};

inline PanelPart part_of(int64_t panel, const PanelRows& rows, int64_t offset, int64_t count) {
  const int64_t first = panel * rows.of_panel;
  const int64_t begin = first > offset ? first : offset;
  const int64_t end = first + rows.of_panel < offset + count ? first + rows.of_panel : offset + count;
  return {panel, begin - offset, end - offset, rows.base + begin - first};
}

// Scales and zeros of group g of the weight. Behind the last row of all, scales are zero.
inline void pack_scales(const Int4Source& source, const QuantizedWeight& weight, int64_t g, const PanelPart& part,
                        int64_t padding) {
  const QuantizedGroup group = weight.at(part.panel, g);
  const int64_t from = g * source.groups() / weight.groups, rows = part.end - part.begin;
  for (int64_t r = 0; r < rows; ++r) {
    group.scales[part.at + r] = source.scale(part.begin + r, from);
    group.zeros[part.at + r] = static_cast<uint8_t>(source.zero(part.begin + r, from));
  }
  for (int64_t r = 0; r < padding; ++r) group.scales[part.at + rows + r] = {0};
}

inline void check_columns(const Int4Source& source, int64_t columns) {
  for (int64_t j = 0; source.columns.present() && j < columns; ++j)
    if (const int32_t column = source.columns.as<int32_t>()[j]; column < 0 || column >= columns)
      fail("invalid_argument", "columns[%lld] = %d is outside the %lld columns of the weight", static_cast<long long>(j),
           column, static_cast<long long>(columns));
}

// Rows of the source become rows offset … of those that `rows` says.
inline void pack_int4(Context& context, const Int4Source& source, const QuantizedWeight& weight, int64_t offset,
                      const PanelRows& rows) {
  check_columns(source, weight.groups * weight.group);
  const int64_t count = source.rows();
  if (count == 0) return;
  const int64_t first_panel = offset / rows.of_panel;
  const int64_t panels = (offset + count + rows.of_panel - 1) / rows.of_panel - first_panel;
  const int64_t even = panels / (context.threads() * 4) + 1, most = 1024 / rows.of_panel;
  parallel(context, panels, even < most ? even : most, [&](int64_t begin, int64_t end, int) {
    for (int64_t g = 0; g < weight.groups; ++g) {
      for (int64_t i = first_panel + begin; i < first_panel + end; ++i) {
        const PanelPart part = part_of(i, rows, offset, count);
        const bool last = offset + part.end == rows.total;
        pack_scales(source, weight, g, part, last ? (i + 1) * rows.of_panel - rows.total : 0);
      }
      for (int64_t word = 0; word < weight.words_of_group(); ++word) {
        const EightColumns columns(source, g * weight.group + word * 8);
        for (int64_t i = first_panel + begin; i < first_panel + end; ++i) {
          const PanelPart part = part_of(i, rows, offset, count);
          uint32_t* to = weight.at(i, g).words + word * quantized_rows + part.at;
          if (source.format == Int4Format::awq) {
            read_awq(columns, part.begin, part.end - part.begin, to);
          } else {
            read_gptq(columns, part.begin, part.end - part.begin, to);
          }
        }
      }
    }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
