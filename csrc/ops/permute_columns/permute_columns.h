// out[t, j] = x[t, columns[j]]
//
// Brings activations into the order of a weight whose columns were sorted by group (GPTQ with act order).
// Errors: a column outside [0, K) is reported by the stream, with its place.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct PermuteColumnsArgs {
  Tensor x;        // activation[T, K]
  Tensor columns;  // i32[K]
  Tensor out;      // dtype of x[T, K]; not x
};
QWEN2_FIELDS(PermuteColumnsArgs, x, columns, out)

void check(Contract& contract, const PermuteColumnsArgs& args);

}  // namespace qwen2
