#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "ops/token_logprobs/token_logprobs.h"
#include "reference/kernel.h"

namespace qwen2::reference {
namespace {

// log Σ exp(logits)
double log_sum_exp(const float* logits, int64_t vocabulary, int64_t row) {
  double max = -INFINITY;
  for (int64_t v = 0; v < vocabulary; ++v) {
    if (std::isnan(logits[v]) || logits[v] == INFINITY)
      fail("invalid_argument", "row %lld: the logit of token %lld is %g; logits must be numbers below +inf",
           static_cast<long long>(row), static_cast<long long>(v), static_cast<double>(logits[v]));
    max = std::max<double>(max, logits[v]);
  }
  if (max == -INFINITY)
    fail("invalid_argument", "row %lld: every logit is -inf, so there are no probabilities",
         static_cast<long long>(row));
  double sum = 0;
  for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(logits[v] - max);
  return max + std::log(sum);
}

// Most probable first, of equal ones the lower id.
std::vector<int32_t> ids_by_probability(const float* logits, int64_t vocabulary) {
  std::vector<int32_t> ids(vocabulary);
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  return ids;
}

}  // namespace

void token_logprobs(const TokenLogprobsArgs& args) {
  const int64_t tokens = args.logits.shape[0], vocabulary = args.logits.shape[1];
  const int64_t alternatives = args.top_ids.present() ? args.top_ids.shape[1] : 0;
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t target = *args.targets.row<int32_t>(t);
    if (target < -1 || target >= vocabulary)
      fail("invalid_argument", "row %lld: target %d is beyond the %lld tokens of the vocabulary",
           static_cast<long long>(t), target, static_cast<long long>(vocabulary));
    float& logprob = *args.logprobs.row<float>(t);
    int32_t& rank = *args.ranks.row<int32_t>(t);
    if (target == -1) {
      logprob = 0;
      rank = 0;
      for (int64_t i = 0; i < alternatives; ++i) {
        args.top_ids.row<int32_t>(t)[i] = -1;
        args.top_logprobs.row<float>(t)[i] = 0;
      }
      continue;
    }
    const float* logits = args.logits.row<float>(t);
    const double log_sum = log_sum_exp(logits, vocabulary, t);
    logprob = static_cast<float>(logits[target] - log_sum);
    rank = 1 + static_cast<int32_t>(
                   std::count_if(logits, logits + vocabulary, [&](float x) { return x > logits[target]; }));
    if (alternatives == 0) continue;
    const std::vector<int32_t> ids = ids_by_probability(logits, vocabulary);
    for (int64_t i = 0; i < alternatives; ++i) {
      args.top_ids.row<int32_t>(t)[i] = ids[i];
      args.top_logprobs.row<float>(t)[i] = static_cast<float>(logits[ids[i]] - log_sum);
    }
  }
}

}  // namespace qwen2::reference
