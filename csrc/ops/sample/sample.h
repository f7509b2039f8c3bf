// sample: one token a sequence from its logits, with its log-probability, in one pass and without a full sort.
//
// For row b, in this order:
//   1. log-probabilities, of the logits as they came: log_softmax(logits[b]).
//   2. masks and biases: tokens whose bit in `allowed` is 0 are out; logit_bias is added (−∞ forbids a token).
//   3. penalties, from the state row rows[b] (−1: none): repetition (of prompt and output: positive logits ÷ r, others
//      × r), frequency (− f · count in the output), presence (− p if in the output).
//   4. temperature 0: the largest logit, of equal ones the lowest id. Otherwise logits ÷ temperature, then in turn
//      min-p: keep tokens with p ≥ min_p · max p;
//      top-k: keep the k most probable, of equal ones the lower ids; 0 keeps all;
//      top-p: of what is kept, renormalized, keep the smallest set of most probable ones (of equal ones the lower ids
//      first) whose mass reaches top_p; at least one;
//      and draw: with u uniform in [0, 1), the first token, in the order of ids, at which the cumulative mass of what
//      is kept exceeds u · total.
//   5. the state row counts the token.
// u is Philox4x32-10 (Salmon et al., SC 2011) keyed by the seed, at counter (token index, choice index, draw 0, 0): it
// depends on nothing else in the batch.
//
// Cumulative sums: of each chunk of 1024 ids apart, in the order of ids, then of the chunks, in the same order.
// Errors, reported by the stream with the row: NaN in the logits; no token left.
//
// load_history: makes state row `row` that of a sequence: its prompt and its output so far.
#pragma once

#include "core/op.h"

namespace qwen2 {

enum SampleParameter { temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty };
constexpr int sample_parameters = 6;
enum SampleChoice { top_k, seed_low, seed_high, choice_index, token_index };
constexpr int sample_choices = 5;
constexpr int64_t sample_chunk = 1024;

struct SampleArgs {
  Tensor logits;                // f32[B, V], left as they are
  Tensor parameters;            // f32[B, 6], columns as in SampleParameter
  Tensor choices;               // i32[B, 5], columns as in SampleChoice
  Tensor rows;                  // i32[B], state rows
  OptionalTensor allowed;       // i32[B, ⌈V/32⌉], bit v % 32 of word v / 32
  OptionalTensor bias_starts;   // i32[B + 1]: row b has the biases bias_starts[b] … bias_starts[b + 1]
  OptionalTensor bias_ids;      // i32[NB]
  OptionalTensor bias_values;   // f32[NB]
  OptionalTensor prompt_masks;  // i32[rows, ⌈V/32⌉], state: tokens of the prompt
  OptionalTensor counts;        // i32[rows, V], state: output tokens, updated
  Tensor tokens;                // i32[B], written
  Tensor logprobs;              // f32[B], written: of the token
  Tensor ranks;                 // i32[B], written: 1 + how many tokens have a larger logit
  OptionalTensor top_ids;       // i32[B, L], written: the L most probable tokens, most probable first
  OptionalTensor top_logprobs;  // f32[B, L], written
};
QWEN2_FIELDS(SampleArgs, logits, parameters, choices, rows, allowed, bias_starts, bias_ids, bias_values, prompt_masks,
             counts, tokens, logprobs, ranks, top_ids, top_logprobs)

struct LoadHistoryArgs {
  Tensor prompt;        // i32[P]
  Tensor output;        // i32[O]
  Tensor prompt_masks;  // i32[rows, ⌈V/32⌉], row rewritten
  Tensor counts;        // i32[rows, V], row rewritten
  int32_t row;
};
QWEN2_FIELDS(LoadHistoryArgs, prompt, output, prompt_masks, counts, row)

void check(Contract& contract, const SampleArgs& args);
void check(Contract& contract, const LoadHistoryArgs& args);

}  // namespace qwen2
