// out[r, k] = source[r, k] · row_scales[r] · column_scales[k], rounded to the dtype of out
//
// Moves scales from one matrix to another before they are rounded to 4 bits (AWQ), and makes f16 of a checkpoint's
// tensors. A scale that is absent is 1. In fp32, one product after the other, each rounded: every device gives the same
// bits.
//
// Errors: a result that is not finite, in the dtype of out, is reported by the stream, with its row and column.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct ScaleArgs {
  Tensor source;                 // f32, f16 or bf16[R, K]
  OptionalTensor row_scales;     // f32[R]
  OptionalTensor column_scales;  // f32[K]
  Tensor out;                    // f32, f16 or bf16[R, K]
};
QWEN2_FIELDS(ScaleArgs, source, row_scales, column_scales, out)

void check(Contract& contract, const ScaleArgs& args);

}  // namespace qwen2
