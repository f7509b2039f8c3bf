// swiglu:       out[t, i] = silu(Σ_k x[t, k] · gate[i, k]) · Σ_k x[t, k] · up[i, k],   silu(a) = a / (1 + exp(-a))
// swiglu_pack:  rows row_offset … of gate (part 0) or up (part 1) of the weight = source, in the device's own layout
//
// SwiGLU (arXiv:2002.05202) with gate and up as one weight, so that neither product is ever written to memory.
// Accumulated in fp32 and rounded once. The order of summation does not depend on T, on CUDA within each of five bands
// of T: to 32, 64, 128, 256, and more, of which `batch_invariant` makes one, as in linear. CUDA devices take K in
// multiples of 8 and rows of x at multiples of 16 bytes.
// Tolerance against float64: one rounding of the output plus K · 2⁻²⁴ of the sums' magnitudes, carried through silu.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct SwigluArgs {
  Tensor x;       // activation[T, K]
  Tensor weight;  // bf16[2·I, K], swiglu_weight layout: gate and up
  Tensor out;     // dtype of x[T, I]; not x
  int32_t batch_invariant;  // 0 or 1
};
QWEN2_FIELDS(SwigluArgs, x, weight, out, batch_invariant)

struct SwigluPackArgs {
  Tensor source;  // f32, f16 or bf16[R, K]
  Tensor weight;  // bf16[2·I, K], swiglu_weight layout, written
  int32_t part;   // 0: gate, 1: up
  int32_t row_offset;
};
QWEN2_FIELDS(SwigluPackArgs, source, weight, part, row_offset)

void check(Contract& contract, const SwigluArgs& args);
void check(Contract& contract, const SwigluPackArgs& args);

}  // namespace qwen2
