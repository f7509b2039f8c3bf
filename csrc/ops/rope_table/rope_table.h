// table[t, j] = cos(positions[t] · frequencies[j]) · scale,  table[t, D/2 + j] = sin(…) · scale,   j < D/2
//
// The rotations of one step, computed once and read by every layer (RoPE, arXiv:2104.09864). The angle is the fp32
// product, as Hugging Face computes it; its cosine and sine are exact to 2 fp32 ulps of 1. `scale` is YaRN's attention
// factor, 1 otherwise.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct RopeTableArgs {
  Tensor positions;    // i32[T]
  Tensor frequencies;  // f32[D/2]
  Tensor table;        // f32[T, D]
  float scale;
};
QWEN2_FIELDS(RopeTableArgs, positions, frequencies, table, scale)

void check(Contract& contract, const RopeTableArgs& args);

}  // namespace qwen2
