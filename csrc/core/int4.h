// 4-bit weights as checkpoints hold them, and how their numbers are read:
//
//   weight[n, k] = scale[g, n] · (q[n, k] − zero[g, n])     with q from 0 to 15, zero from 0 to 16, scale f16
//
// A group g is K / G columns, in their order or in the one that `columns` gives (GPTQ with act order).
//
//   awq      qweight i32[K, N/8], qzeros i32[G, N/8]: nibble i of a word holds row 8·j + {0, 2, 4, 6, 1, 3, 5, 7}[i]
//   gptq     qweight i32[K/8, N], nibble i holds column 8·j + i; qzeros i32[G, N/8], nibble i holds row 8·j + i, minus one
//   gptq_v2  the same, zeros as they are
#pragma once

#include "core/contract.h"

namespace qwen2 {

enum class Int4Format : int32_t { awq = 0, gptq = 1, gptq_v2 = 2 };

// The tensors of one matrix.
struct Int4Source {
  Tensor qweight, qzeros, scales;
  OptionalTensor columns;  // i32[K]: which column of the checkpoint is column j here; absent: j
  Int4Format format;

  QWEN2_HOST_DEVICE int64_t rows() const { return scales.shape[1]; }
  QWEN2_HOST_DEVICE int64_t groups() const { return scales.shape[0]; }

  QWEN2_HOST_DEVICE uint32_t q(int64_t n, int64_t j) const {
    const int64_t k = columns.present() ? columns.as<int32_t>()[j] : j;
    if (format == Int4Format::awq) return nibble(qweight.row<uint32_t>(k)[n / 8], awq_nibble(n));
    return nibble(qweight.row<uint32_t>(k / 8)[n], static_cast<int>(k % 8));
  }
  QWEN2_HOST_DEVICE uint32_t zero(int64_t n, int64_t g) const {
    const uint32_t word = qzeros.row<uint32_t>(g)[n / 8];
    if (format == Int4Format::awq) return nibble(word, awq_nibble(n));
    return nibble(word, static_cast<int>(n % 8)) + (format == Int4Format::gptq ? 1 : 0);
  }
  QWEN2_HOST_DEVICE f16 scale(int64_t n, int64_t g) const { return scales.row<f16>(g)[n]; }

  // Where AWQ keeps row n of the eight that share a word: even rows in the lower half, odd ones in the upper.
  QWEN2_HOST_DEVICE static int awq_nibble(int64_t n) { return static_cast<int>(n % 8 / 2 + n % 2 * 4); }
  QWEN2_HOST_DEVICE static uint32_t nibble(uint32_t word, int i) { return word >> (4 * i) & 15u; }
};

// What the pack operations of int4 weights are given.
template <typename Args>
Int4Source int4_source(const Args& args) {
  return {args.qweight, args.qzeros, args.scales, args.columns, static_cast<Int4Format>(args.format)};
}

// Checks the shapes of `source` against its format, for `rows` rows and `columns` columns, and that its groups can be
// cut into those of the weight: each a multiple of `group` columns.
void check_int4_source(Contract& contract, const Int4Source& source, Dim& rows, Dim& columns, int32_t group);

}  // namespace qwen2
