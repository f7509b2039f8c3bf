// out[t, :] = table[ids[t], :]
//
// The table may be a plain [V, H] tensor or the weight of the LM head in the device's packed layout, so that tied
// embeddings exist once; an int8 one is scale · q, rounded to the dtype of out.
//
// Errors: an id outside [0, V) is reported by the stream, with its row.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct EmbeddingArgs {
  Tensor ids;    // i32[T]
  Tensor table;  // bf16[V, H], plain, or bf16 or int8 in linear_weight layout
  Tensor out;    // activation[T, H]
};
QWEN2_FIELDS(EmbeddingArgs, ids, table, out)

void check(Contract& contract, const EmbeddingArgs& args);

}  // namespace qwen2
