// swiglu_int4:       out[t, i] = silu(x · gateᵀ)[t, i] · (x · upᵀ)[t, i]   with gate and up of int4
// swiglu_int4_pack:  rows row_offset … of gate (part 0) or up (part 1) of the weight = a matrix of an AWQ or GPTQ
//                    checkpoint (core/int4.h), in the device's own layout
//
// swiglu with the sums of linear_int4, and their tolerances carried through silu; gate and up never reach memory.
// `exact` and `batch_invariant` as there.
//
// Errors: of the pack operation, a column outside [0, K) is reported by the stream, with its place.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct SwigluInt4Args {
  Tensor x;       // activation[T, K]
  Tensor weight;  // int4[2·I, K], swiglu_weight layout: gate and up
  Tensor out;     // dtype of x[T, I]; not x
  int32_t exact;  // 0 or 1
  int32_t batch_invariant;  // 0 or 1
};
QWEN2_FIELDS(SwigluInt4Args, x, weight, out, exact, batch_invariant)

struct SwigluInt4PackArgs {
  Tensor qweight;          // i32[K, R/8] (AWQ) or [K/8, R] (GPTQ)
  Tensor qzeros;           // i32[G, R/8]
  Tensor scales;           // f16[G, R]
  OptionalTensor columns;  // i32[K]: which column of the checkpoint becomes column j; each once
  Tensor weight;           // int4[2·I, K], swiglu_weight layout, written
  int32_t format;          // Int4Format
  int32_t part;            // 0: gate, 1: up
  int32_t row_offset;      // within the part; a multiple of 8
};
QWEN2_FIELDS(SwigluInt4PackArgs, qweight, qzeros, scales, columns, weight, format, part, row_offset)

void check(Contract& contract, const SwigluInt4Args& args);
void check(Contract& contract, const SwigluInt4PackArgs& args);

}  // namespace qwen2
