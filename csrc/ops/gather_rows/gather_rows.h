// out[b, :] = x[rows[b], :]
//
// Before the LM head: only the rows whose logits are wanted. Of ids: those that the step before chose. Errors: a row outside [0, T) is reported by the stream.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct GatherRowsArgs {
  Tensor x;     // activation or i32[T, H]
  Tensor rows;  // i32[B]
  Tensor out;   // dtype of x[B, H]; not x
};
QWEN2_FIELDS(GatherRowsArgs, x, rows, out)

void check(Contract& contract, const GatherRowsArgs& args);

}  // namespace qwen2
