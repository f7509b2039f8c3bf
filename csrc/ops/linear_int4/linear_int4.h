// linear_int4:       out[t, n] = Σ_g scale[n, g] · (Σ_{k ∈ g} q[n, k] · x[t, k] − zero[n, g] · Σ_{k ∈ g} x[t, k]) + bias[n]
// linear_int4_pack:  rows row_offset … of the weight = a matrix of an AWQ or GPTQ checkpoint (core/int4.h), in the
//                    device's own layout
//
// Scales are f16 and exact. Accumulated in fp32, a group at a time, and rounded once, to the dtype of `out`. Where a
// checkpoint's groups are longer than the weight's, their scales are repeated.
//
// Tolerance against float64, where `exact` is set and on CUDA always: one rounding of the output plus K · 2⁻²⁴ of
// Σ|x · scale| · (q + zero). Where it is not, a device may round x to 8 bits, symmetrically, with a scale for each group of
// each row: an error of at most max|x| / 254 in each element, of max|x| / 440 as the root of the mean of squares. The CPU
// does.
//
// The order of summation does not depend on T; on CUDA within each of five bands of T, to 32, 64, 128, 256, and more, of
// which `batch_invariant` pins the first for all. CUDA devices take rows of x at multiples of 16 bytes.
//
// Errors: of the pack operation, a column outside [0, K) is reported by the stream, with its place.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct LinearInt4Args {
  Tensor x;             // activation[T, K]
  Tensor weight;        // int4[N, K], linear_weight layout
  OptionalTensor bias;  // f32[N]
  Tensor out;           // dtype of x or f32[T, N]; not x
  int32_t exact;        // 0 or 1
  int32_t batch_invariant;  // 0 or 1
};
QWEN2_FIELDS(LinearInt4Args, x, weight, bias, out, exact, batch_invariant)

// A checkpoint's matrix has R rows, a multiple of 8, and G groups of columns.
struct LinearInt4PackArgs {
  Tensor qweight;          // i32[K, R/8] (AWQ) or [K/8, R] (GPTQ)
  Tensor qzeros;           // i32[G, R/8]
  Tensor scales;           // f16[G, R]
  OptionalTensor columns;  // i32[K]: which column of the checkpoint becomes column j; each once
  Tensor weight;           // int4[N, K], linear_weight layout, written
  int32_t format;          // Int4Format
  int32_t row_offset;      // a multiple of 8
};
QWEN2_FIELDS(LinearInt4PackArgs, qweight, qzeros, scales, columns, weight, format, row_offset)

void check(Contract& contract, const LinearInt4Args& args);
void check(Contract& contract, const LinearInt4PackArgs& args);

}  // namespace qwen2
