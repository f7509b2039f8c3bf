// One row of a call of `sample`, read from its tensors and checked. Plain functions, shared by the devices. Checks that
// throw are the host's.
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
QWEN2_HOST_DEVICE static inline bool bit(const int32_t* mask, int64_t v) {
  return static_cast<uint32_t>(mask[v / 32]) >> (v % 32) & 1u;
}
static inline void set_bit(int32_t* mask, int64_t v) {
  mask[v / 32] = static_cast<int32_t>(static_cast<uint32_t>(mask[v / 32]) | 1u << (v % 32));
}

[[noreturn]] static inline void fail_no_token(int64_t row) {
  fail("invalid_argument", "row %lld: no token is left to choose from; every logit is -inf after masks and biases",
       static_cast<long long>(row));
}

QWEN2_HOST_DEVICE static inline SampleRow read_row(const SampleArgs& args, int64_t b) {
  const float* parameters = args.parameters.row<float>(b);
  const int32_t* choices = args.choices.row<int32_t>(b);
  const bool biased = args.bias_starts.present();
  return {
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
}

// What can be wrong with a row, in the order in which it is looked for.
enum RowFault {
  bad_temperature, bad_top_p, bad_min_p, bad_repetition, bad_presence, bad_frequency, bad_top_k, bad_state, bad_biases,
  row_faults,  // how many there are; as a fault: none
};

// With the row; of a parameter its value; of a state row it and how many there are; of biases where they begin and end,
// and how many there are.
constexpr const char* row_fault_words[row_faults] = {
    "row %lld: temperature is %g; it must be 0 or more",
    "row %lld: top_p is %g; it must be between 0 and 1",
    "row %lld: min_p is %g; it must be between 0 and 1",
    "row %lld: repetition_penalty is %g; it must be above 0",
    "row %lld: presence_penalty is %g; it must be finite",
    "row %lld: frequency_penalty is %g; it must be finite",
    "row %lld: top_k is %g; it must be 0 or more",
    "row %lld: there is no state row %lld; there are %lld, and -1 is none",
    "row %lld: biases %lld to %lld are not a part of the %.0f that there are",
};

QWEN2_HOST_DEVICE static inline int64_t states_of(const SampleArgs& args) {
  return args.counts.present() ? args.counts.shape[0] : 0;
}
QWEN2_HOST_DEVICE static inline int64_t biases_of(const SampleArgs& args) {
  return args.bias_starts.present() ? args.bias_ids.shape[0] : 0;
}

QWEN2_HOST_DEVICE static inline RowFault fault_of(const SampleArgs& args, const SampleRow& row) {
  constexpr float infinity = __builtin_inff();
  if (!(row.temperature >= 0 && row.temperature < infinity)) return bad_temperature;
  if (!(row.top_p >= 0 && row.top_p <= 1)) return bad_top_p;
  if (!(row.min_p >= 0 && row.min_p <= 1)) return bad_min_p;
  if (!(row.repetition > 0 && row.repetition < infinity)) return bad_repetition;
  if (!(row.presence - row.presence == 0)) return bad_presence;
  if (!(row.frequency - row.frequency == 0)) return bad_frequency;
  if (row.top_k < 0) return bad_top_k;
  if (row.state < -1 || row.state >= states_of(args)) return bad_state;
  if (row.bias_begin < 0 || row.bias_begin > row.bias_end || row.bias_end > biases_of(args)) return bad_biases;
  return row_faults;
}

// The numbers that go into the words of a fault: integers first, then the %g.
struct FaultNumbers {
  long long first, second;
  double value;
};

QWEN2_HOST_DEVICE static inline FaultNumbers numbers_of(const SampleArgs& args, const SampleRow& row, RowFault fault) {
  switch (fault) {
    case bad_temperature:
      return {0, 0, row.temperature};
    case bad_top_p:
      return {0, 0, row.top_p};
    case bad_min_p:
      return {0, 0, row.min_p};
    case bad_repetition:
      return {0, 0, row.repetition};
    case bad_presence:
      return {0, 0, row.presence};
    case bad_frequency:
      return {0, 0, row.frequency};
    case bad_top_k:
      return {0, 0, static_cast<double>(row.top_k)};
    case bad_state:
      return {row.state, states_of(args), 0};
    case bad_biases:
      return {row.bias_begin, row.bias_end, static_cast<double>(biases_of(args))};
    default:
      return {0, 0, 0};
  }
}

static inline SampleRow sample_row(const SampleArgs& args, int64_t b) {
  const SampleRow row = read_row(args, b);
  const RowFault fault = fault_of(args, row);
  if (fault == row_faults) return row;
  const auto [first, second, value] = numbers_of(args, row, fault);
  const char* words = row_fault_words[fault];
  if (fault < bad_state) fail("invalid_argument", words, static_cast<long long>(b), value);
  if (fault == bad_state) fail("invalid_argument", words, static_cast<long long>(b), first, second);
  fail("invalid_argument", words, static_cast<long long>(b), first, second, value);
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
