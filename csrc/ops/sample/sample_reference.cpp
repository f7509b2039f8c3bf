#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "ops/sample/philox.h"
#include "ops/sample/row.h"
#include "ops/sample/sample.h"
#include "reference/kernel.h"

namespace qwen2::reference {
namespace {

using Ids = std::vector<int32_t>;

void require_logit(double logit, int64_t row, int32_t token) {
  if (std::isnan(logit) || logit == INFINITY)
    fail("invalid_argument", "row %lld: the logit of token %d is %g; logits must be numbers below +inf",
         static_cast<long long>(row), token, logit);
}

// Most probable first, of equal ones the lower id.
void sort_by_probability(Ids& ids, const float* logits) {
  std::sort(ids.begin(), ids.end(),
            [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
}

// log Σ exp(logits)
double log_sum_exp(const float* logits, int64_t vocabulary, int64_t row) {
  double max = -INFINITY;
  for (int32_t v = 0; v < vocabulary; ++v) {
    require_logit(logits[v], row, v);
    max = std::max<double>(max, logits[v]);
  }
  if (max == -INFINITY) fail_no_token(row);
  double sum = 0;
  for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(logits[v] - max);
  return max + std::log(sum);
}

// Steps 2 and 3.
std::vector<float> adjusted_logits(const SampleArgs& args, const SampleRow& row) {
  const int64_t vocabulary = args.logits.shape[1], b = row.index;
  const float* logits = args.logits.row<float>(b);
  std::vector<float> adjusted(logits, logits + vocabulary);
  for (int64_t v = 0; v < vocabulary; ++v)
    if (args.allowed.present() && !bit(args.allowed.row<int32_t>(b), v)) adjusted[v] = -INFINITY;
  for (int64_t i = row.bias_begin; i < row.bias_end; ++i) adjusted[bias_at(args, i, b).id] += bias_at(args, i, b).value;
  if (row.state >= 0) {
    const int32_t* prompt = args.prompt_masks.row<int32_t>(row.state);
    const int32_t* counts = args.counts.row<int32_t>(row.state);
    for (int64_t v = 0; v < vocabulary; ++v) {
      double logit = adjusted[v];
      if (bit(prompt, v) || counts[v] > 0) logit = logit > 0 ? logit / row.repetition : logit * row.repetition;
      logit -= static_cast<double>(row.frequency) * counts[v];
      if (counts[v] > 0) logit -= row.presence;
      adjusted[v] = static_cast<float>(logit);
    }
  }
  for (int32_t v = 0; v < vocabulary; ++v) require_logit(adjusted[v], b, v);
  return adjusted;
}

// Step 4: what min-p, top-k and top-p keep, in the order of ids.
Ids kept_tokens(const std::vector<float>& logits, const std::vector<double>& mass, const SampleRow& row) {
  Ids kept(logits.size());
  std::iota(kept.begin(), kept.end(), 0);
  std::erase_if(kept, [&](int32_t v) { return logits[v] == -INFINITY || mass[v] < row.min_p; });
  sort_by_probability(kept, logits.data());
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < kept.size()) kept.resize(row.top_k);
  if (row.top_p < 1) {
    double total = 0;
    for (int32_t v : kept) total += mass[v];
    double reached = 0;
    size_t size = 0;
    while (size < kept.size() && (size == 0 || reached < row.top_p * total)) reached += mass[kept[size++]];
    kept.resize(size);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

int32_t choose(const std::vector<float>& logits, const SampleRow& row) {
  const auto largest = std::max_element(logits.begin(), logits.end());
  if (*largest == -INFINITY) fail_no_token(row.index);
  if (row.temperature == 0) return static_cast<int32_t>(largest - logits.begin());
  // Relative to the most probable token's, which is 1.
  std::vector<double> mass(logits.size());
  for (size_t v = 0; v < logits.size(); ++v)
    mass[v] = std::exp((static_cast<double>(logits[v]) - *largest) / row.temperature);
  const Ids kept = kept_tokens(logits, mass, row);
  double total = 0;
  for (int32_t v : kept) total += mass[v];
  const double u = sample_uniform(row.seed_low, row.seed_high, row.token_index, row.choice_index);
  double cumulative = 0;
  for (int32_t v : kept) {
    cumulative += mass[v];
    if (cumulative > u * total) return v;
  }
  return kept.back();
}

// Step 1.
void write_probabilities(const SampleArgs& args, int64_t b, int32_t token, double log_sum) {
  const int64_t vocabulary = args.logits.shape[1];
  const float* logits = args.logits.row<float>(b);
  *args.tokens.row<int32_t>(b) = token;
  *args.logprobs.row<float>(b) = static_cast<float>(logits[token] - log_sum);
  *args.ranks.row<int32_t>(b) =
      1 + static_cast<int32_t>(std::count_if(logits, logits + vocabulary, [&](float x) { return x > logits[token]; }));
  if (!args.top_ids.present()) return;
  Ids ids(vocabulary);
  std::iota(ids.begin(), ids.end(), 0);
  sort_by_probability(ids, logits);
  for (int64_t i = 0; i < args.top_ids.shape[1]; ++i) {
    args.top_ids.row<int32_t>(b)[i] = ids[i];
    args.top_logprobs.row<float>(b)[i] = static_cast<float>(logits[ids[i]] - log_sum);
  }
}

}  // namespace

void sample(const SampleArgs& args) {
  const int64_t rows = args.logits.shape[0], vocabulary = args.logits.shape[1];
  for (int64_t b = 0; b < rows; ++b) {
    const SampleRow row = sample_row(args, b);
    const double log_sum = log_sum_exp(args.logits.row<float>(b), vocabulary, b);
    write_probabilities(args, b, choose(adjusted_logits(args, row), row), log_sum);
  }
  count_tokens(args);
}

void load_history(const LoadHistoryArgs& args) {
  const int64_t vocabulary = args.counts.shape[1];
  int32_t* prompt_mask = args.prompt_masks.row<int32_t>(args.row);
  int32_t* counts = args.counts.row<int32_t>(args.row);
  std::fill_n(prompt_mask, args.prompt_masks.shape[1], 0);
  std::fill_n(counts, vocabulary, 0);
  for (int64_t i = 0; i < args.prompt.shape[0]; ++i) set_bit(prompt_mask, history_token(args.prompt, i, "prompt", vocabulary));
  for (int64_t i = 0; i < args.output.shape[0]; ++i) ++counts[history_token(args.output, i, "output", vocabulary)];
}

}  // namespace qwen2::reference
