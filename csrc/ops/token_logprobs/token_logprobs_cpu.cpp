#include "cpu/candidates.h"
#include "cpu/logits.h"
#include "ops/token_logprobs/token_logprobs.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

// What the kernel does for one row, with memory for its survey and candidates.
void score(const TokenLogprobsArgs& args, int64_t t, float* memory, Candidates list) {
  const int64_t vocabulary = args.logits.shape[1], alternatives = args.top_ids.present() ? args.top_ids.shape[1] : 0;
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
    return;
  }
  const Survey survey = survey_in(memory, args.logits.row<float>(t), vocabulary);
  for (int64_t chunk = 0; chunk < chunks_of(vocabulary); ++chunk) {
    find_maxima(survey, chunk);
    sum_exponentials(survey, chunk, 1);
  }
  const double log_sum = log_sum_exp(survey, t);
  logprob = static_cast<float>(survey.logits[target] - log_sum);
  rank = rank_of(survey, survey.logits[target]);
  if (alternatives > 0)
    write_top(list, survey, log_sum, alternatives, args.top_ids.row<int32_t>(t), args.top_logprobs.row<float>(t));
}

}  // namespace

void token_logprobs(Context& context, const TokenLogprobsArgs& args) {
  const int64_t tokens = args.logits.shape[0], vocabulary = args.logits.shape[1];
  parallel(context, tokens, 1, [&](int64_t begin, int64_t end, int worker) {
    const int64_t survey_bytes = (Survey::floats(vocabulary) + 15) / 16 * 16 * static_cast<int64_t>(sizeof(float));
    char* memory = static_cast<char*>(
        context.scratch(worker, static_cast<size_t>(survey_bytes + Candidates::bytes(vocabulary))));
    for (int64_t t = begin; t < end; ++t)
      score(args, t, reinterpret_cast<float*>(memory), candidates_in(memory + survey_bytes, vocabulary));
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
