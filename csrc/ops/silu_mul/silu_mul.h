// out[t, i] = silu(gate[t, i]) · up[t, i],   silu(a) = a / (1 + exp(-a))
//
// What swiglu ends with, for gate and up that are two products: weights of different kinds, or with columns in different
// orders. Computed in fp32 and rounded once.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct SiluMulArgs {
  Tensor gate;  // activation[T, I]
  Tensor up;    // dtype of gate[T, I]
  Tensor out;   // dtype of gate[T, I]; gate itself, or neither
};
QWEN2_FIELDS(SiluMulArgs, gate, up, out)

void check(Contract& contract, const SiluMulArgs& args);

}  // namespace qwen2
