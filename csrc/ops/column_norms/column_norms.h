// out[k] = Σ_t |a[t, k] − b[t, k]|^power
//
// How far two results of a product are apart (power 2), and how large the inputs of a weight are (power 1, no b), by
// column: what AWQ chooses its scales by (arXiv:2306.00978). Without b it is zero. Summed in fp32, on every device in an
// order that depends on T alone.
// Tolerance against float64: (T + 4) · 2⁻²⁴ of the sum: a difference, and its square, are rounded.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct ColumnNormsArgs {
  Tensor a;          // f32 or bf16[T, K]
  OptionalTensor b;  // dtype of a[T, K]
  Tensor out;        // f32[K]
  int32_t power;     // 1 or 2
};
QWEN2_FIELDS(ColumnNormsArgs, a, b, out, power)

void check(Contract& contract, const ColumnNormsArgs& args);

}  // namespace qwen2
