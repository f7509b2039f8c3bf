// linear_int8:       out[t, n] = Σ_g scale[n, g] · Σ_{k ∈ g} q[n, k] · x[t, k] + bias[n],   q from −127 to 127
// linear_int8_pack:  rows row_offset … of the weight = source, rounded to 8 bits: for each row and group of columns,
//                    scale = max|source| / 127 as f16, at least 2⁻²⁴ and at most 65504, q = round(source / scale), ties to
//                    even
//
// For the LM head, whose weight may be the embedding table too. Precision, order of summation, `exact` and
// `batch_invariant` as in linear_int4.
//
// Errors: a source that is not finite is reported by the stream, with its row and column.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct LinearInt8Args {
  Tensor x;             // activation[T, K]
  Tensor weight;        // int8[N, K], linear_weight layout
  OptionalTensor bias;  // f32[N]
  Tensor out;           // dtype of x or f32[T, N]; not x
  int32_t exact;        // 0 or 1
  int32_t batch_invariant;  // 0 or 1
};
QWEN2_FIELDS(LinearInt8Args, x, weight, bias, out, exact, batch_invariant)

struct LinearInt8PackArgs {
  Tensor source;  // f32, f16 or bf16[R, K]
  Tensor weight;  // int8[N, K], linear_weight layout, written
  int32_t row_offset;
};
QWEN2_FIELDS(LinearInt8PackArgs, source, weight, row_offset)

void check(Contract& contract, const LinearInt8Args& args);
void check(Contract& contract, const LinearInt8PackArgs& args);

}  // namespace qwen2
