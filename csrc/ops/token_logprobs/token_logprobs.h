// logprobs[t] = log_softmax(logits[t])[targets[t]], with its rank and the most probable alternatives.
//
// For log-probabilities of a prompt. A row of target −1 is not read: its log-probability and rank are 0, its alternatives
// −1 with log-probability 0.
// Of equal logits the lower id is the more probable. Tolerance: 1e-5 + 2⁻²³ relative; ranks and ids are exact.
// Errors, reported by the stream with the row: a target beyond V; NaN or +∞ in the logits; no logit above −∞.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct TokenLogprobsArgs {
  Tensor logits;                // f32[T, V]
  Tensor targets;               // i32[T]
  Tensor logprobs;              // f32[T], written
  Tensor ranks;                 // i32[T], written: 1 + how many tokens have a larger logit
  OptionalTensor top_ids;       // i32[T, L], written: the L most probable tokens, most probable first
  OptionalTensor top_logprobs;  // f32[T, L], written
};
QWEN2_FIELDS(TokenLogprobsArgs, logits, targets, logprobs, ranks, top_ids, top_logprobs)

void check(Contract& contract, const TokenLogprobsArgs& args);

}  // namespace qwen2
