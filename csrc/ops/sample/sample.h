// sample: one token a sequence from its logits, with its log-probability, in one pass and without a full sort.
//
// For row b, in this order:
//   1. log-probabilities, of the logits as they came: log_softmax(logits[b]).
//   2. masks and biases: tokens whose bit in `allowed` is 0 are out; logit_bias is added (−∞ forbids a token), each sum
//      rounded to f32.
//   3. penalties, from the state row rows[b] (−1: none): repetition (of prompt and output: positive logits ÷ r, others
//      × r), frequency (− f · count in the output), presence (− p if in the output); in float64, rounded to f32 once.
//   4. temperature 0: the largest logit, of equal ones the lowest id. Otherwise logits ÷ temperature, then in turn
//      min-p: keep tokens with p ≥ min_p · max p;
//      top-k: keep the k most probable, of equal ones the lower ids; 0 keeps all;
//      top-p: of what is kept, renormalized, keep the smallest set of most probable ones (of equal ones the lower ids
//      first) whose mass reaches top_p; at least one; 1 keeps all;
//      and draw: with u uniform in [0, 1), the first token, in the order of ids, at which the cumulative mass of what
//      is kept exceeds u · total.
//      Tokens are more, less or equally probable as their logits before the division are. A logit of −∞ is never kept.
//   5. the state row counts the token. Rows of the call see the state as it was before the call; two rows must not share
//      a state row.
// u is Philox4x32-10 (philox.h) keyed by the seed, at counter (token index, choice index, draw 0, 0): it depends on
// nothing else in the batch.
//
// Sums run within chunks of 1024 ids, then over the chunks in the order of ids: a row's outputs depend neither on the
// rows beside it nor on the number of threads.
// Tolerance: log-probabilities to 1e-5 + 2⁻²³ relative. The mass of a token that counts is off by 1e-5 relative at most,
// so that another token than reference's comes out only where u or top_p is that close to an edge.
// Errors, reported by the stream with the row, which leave the state as it was: NaN or +∞ in the logits (before or after
// steps 2 and 3); no token left; a parameter, bias id or state row out of range.
//
// load_history: makes state row `row` that of a sequence: its prompt and its output so far. Errors: a token beyond V.
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
