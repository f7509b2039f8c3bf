// One row of a call of `sample`, read from its tensors and checked. Plain functions, shared by the kernels on the host.
#pragma once

#include "core/error.h"
#include "ops/sample/sample.h"

namespace qwen2 {

struct SampleRow {
  int64_t index;  // b
  float temperature, top_p, min_p, repetition, presence, frequency;
  int32_t top_k;
  uint32_t seed_low, seed_high, choice_index, token_index;
  int64_t state;  // −1: no penalties
  int64_t bias_begin, bias_end;
};

// Bit v of a row of a mask.
static inline bool bit(const int32_t* mask, int64_t v) { return static_cast<uint32_t>(mask[v / 32]) >> (v % 32) & 1u; }
static inline void set_bit(int32_t* mask, int64_t v) {
  mask[v / 32] = static_cast<int32_t>(static_cast<uint32_t>(mask[v / 32]) | 1u << (v % 32));
}

[[noreturn]] static inline void fail_no_token(int64_t row) {
  fail("invalid_argument", "row %lld: no token is left to choose from; every logit is -inf after masks and biases",
       static_cast<long long>(row));
}

static inline void require_parameter(bool holds, int64_t row, const char* name, float value, const char* range) {
  if (!holds)
    fail("invalid_argument", "row %lld: %s is %g; it must be %s", static_cast<long long>(row), name,
         static_cast<double>(value), range);
}

static inline void check_row(const SampleArgs& args, const SampleRow& row) {
  constexpr float infinity = __builtin_inff();
  const int64_t b = row.index, states = args.counts.present() ? args.counts.shape[0] : 0;
  require_parameter(row.temperature >= 0 && row.temperature < infinity, b, "temperature", row.temperature, "0 or more");
  require_parameter(row.top_p >= 0 && row.top_p <= 1, b, "top_p", row.top_p, "between 0 and 1");
  require_parameter(row.min_p >= 0 && row.min_p <= 1, b, "min_p", row.min_p, "between 0 and 1");
  require_parameter(row.repetition > 0 && row.repetition < infinity, b, "repetition_penalty", row.repetition, "above 0");
  require_parameter(row.presence - row.presence == 0, b, "presence_penalty", row.presence, "finite");
  require_parameter(row.frequency - row.frequency == 0, b, "frequency_penalty", row.frequency, "finite");
  require_parameter(row.top_k >= 0, b, "top_k", static_cast<float>(row.top_k), "0 or more");
  if (row.state < -1 || row.state >= states)
    fail("invalid_argument", "row %lld: there is no state row %lld; there are %lld, and -1 is none",
         static_cast<long long>(b), static_cast<long long>(row.state), static_cast<long long>(states));
  const int64_t biases = args.bias_starts.present() ? args.bias_ids.shape[0] : 0;
  if (row.bias_begin < 0 || row.bias_begin > row.bias_end || row.bias_end > biases)
    fail("invalid_argument", "row %lld: biases %lld to %lld are not a part of the %lld that there are",
         static_cast<long long>(b), static_cast<long long>(row.bias_begin), static_cast<long long>(row.bias_end),
         static_cast<long long>(biases));
}

static inline SampleRow sample_row(const SampleArgs& args, int64_t b) {
  const float* parameters = args.parameters.row<float>(b);
  const int32_t* choices = args.choices.row<int32_t>(b);
  const bool biased = args.bias_starts.present();
  const SampleRow row = {
      .index = b,
      .temperature = parameters[temperature],
      .top_p = parameters[top_p],
      .min_p = parameters[min_p],
      .repetition = parameters[repetition_penalty],
      .presence = parameters[presence_penalty],
      .frequency = parameters[frequency_penalty],
      .top_k = choices[top_k],
      .seed_low = static_cast<uint32_t>(choices[seed_low]),
      .seed_high = static_cast<uint32_t>(choices[seed_high]),
      .choice_index = static_cast<uint32_t>(choices[choice_index]),
      .token_index = static_cast<uint32_t>(choices[token_index]),
      .state = *args.rows.row<int32_t>(b),
      .bias_begin = biased ? *args.bias_starts.row<int32_t>(b) : 0,
      .bias_end = biased ? *args.bias_starts.row<int32_t>(b + 1) : 0,
  };
  check_row(args, row);
  return row;
}

struct Bias {
  int32_t id;
  float value;
};

static inline Bias bias_at(const SampleArgs& args, int64_t i, int64_t row) {
  const Bias bias = {*args.bias_ids.row<int32_t>(i), *args.bias_values.row<float>(i)};
  if (bias.id < 0 || bias.id >= args.logits.shape[1])
    fail("invalid_argument", "row %lld: a bias is for token %d, beyond the %lld tokens of the vocabulary",
         static_cast<long long>(row), bias.id, static_cast<long long>(args.logits.shape[1]));
  if (!(bias.value < __builtin_inff()))
    fail("invalid_argument", "row %lld: the bias of token %d is %g; it must be a number below +inf",
         static_cast<long long>(row), bias.id, static_cast<double>(bias.value));
  return bias;
}

// Step 5.
static inline void count_tokens(const SampleArgs& args) {
  if (!args.counts.present()) return;
  for (int64_t b = 0; b < args.logits.shape[0]; ++b) {
    const int32_t state = *args.rows.row<int32_t>(b);
    if (state >= 0) ++args.counts.row<int32_t>(state)[*args.tokens.row<int32_t>(b)];
  }
}

// Token i of a history.
static inline int32_t history_token(const Tensor& tokens, int64_t i, const char* name, int64_t vocabulary) {
  const int32_t token = *tokens.row<int32_t>(i);
  if (token < 0 || token >= vocabulary)
    fail("invalid_argument", "%s[%lld] = %d is beyond the %lld tokens of the vocabulary", name,
         static_cast<long long>(i), token, static_cast<long long>(vocabulary));
  return token;
}

}  // namespace qwen2
