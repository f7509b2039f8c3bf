// A matrix, rounded to 4 bits with a scale and a zero for each row and group of columns, in the form of AWQ checkpoints
// (core/int4.h).
//
// With w = source[n, k] · column_scales[k], lo = min(0, min w) and hi = max(0, max w) over a group, for a shrink c in
// (0, 1]:
//   scale = (hi − lo) · c / 15 as f16, at least 2⁻²⁴ and at most 65504
//   zero  = round(−lo · c / scale) from 0 to 15
//   q     = round(w / scale) + zero from 0 to 15                                  (rounding ties to even)
// Of the shrinks 1 − i / 40, i = 0 … clip_steps, the one with the least Σ (scale · (q − zero) − w)² is taken, the first
// of equal ones: outliers are clipped where that serves the rest.
//
// In fp32, every operation rounded, squares summed in the order of k: every device gives the same bits, and rows lie side
// by side in vectors.
//
// Errors: a w that is not finite is reported by the stream, with its row and column.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct QuantizeInt4Args {
  Tensor source;                 // f32, f16 or bf16[R, K], R a multiple of 8
  OptionalTensor column_scales;  // f32[K]
  Tensor qweight;                // i32[K, R/8], written
  Tensor qzeros;                 // i32[G, R/8], written; K / G is 32, 64 or 128
  Tensor scales;                 // f16[G, R], written
  int32_t clip_steps;            // 0 … 30
};
QWEN2_FIELDS(QuantizeInt4Args, source, column_scales, qweight, qzeros, scales, clip_steps)

void check(Contract& contract, const QuantizeInt4Args& args);

}  // namespace qwen2
