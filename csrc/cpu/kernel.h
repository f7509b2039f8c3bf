// The words a CPU kernel is written in, whatever the SIMD level it is compiled for.
//
// An operation's <op>_cpu.cpp is compiled once a level, with QWEN2_SIMD naming the level and so the namespace. Such a
// file holds plain functions over plain data: a standard container instantiated there would be a weak symbol built with
// that level's instructions, which the linker may give to the whole program.
#pragma once

#include "core/error.h"
#include "core/tensor.h"
#include "cpu/context.h"

#if !defined(QWEN2_SIMD)
#error "compile CPU kernels with QWEN2_SIMD set to scalar, avx2 or avx512"
#endif

namespace qwen2::cpu::QWEN2_SIMD {

// Runs body(begin, end, worker) over pieces of [0, items) on all threads.
template <typename Body>
inline void parallel(Context& context, int64_t items, int64_t piece, const Body& body) {
  context.pool().run(
      items, piece,
      [](void* self, int64_t begin, int64_t end, int worker) { (*static_cast<const Body*>(self))(begin, end, worker); },
      const_cast<Body*>(&body));
}

// f32 activations exist on `reference` only.
inline void require_bf16(const char* op, const Tensor& x) {
  if (x.dtype != DType::bf16)
    fail("unsupported", "%s: the cpu device computes on bf16 activations, not %s; use the reference device", op,
         name_of(x.dtype));
}

// The layout of packed weights at every level (written by linear_pack and swiglu_pack): panels of 64 rows; within one,
// column pairs in order; within one, the 64 rows, each with its two elements together:
//   element [n, k] at (n / 64) · panel_stride + (k / 2) · 128 + (n % 64) · 2 + k % 2
// Rows and columns are padded with zeros. A 64-row panel times one token is 4 (AVX-512) or 8 (AVX2) accumulators fed by
// one contiguous stream.
constexpr int64_t panel_rows = 64;
constexpr int64_t panel_pairs(int64_t columns) { return (columns + 1) / 2; }
constexpr int64_t panel_stride(int64_t columns) { return panel_pairs(columns) * panel_rows * 2; }
constexpr int64_t panels(int64_t rows) { return (rows + panel_rows - 1) / panel_rows; }

}  // namespace qwen2::cpu::QWEN2_SIMD
