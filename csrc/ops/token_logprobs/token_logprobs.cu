// Two launches. The survey reads the logits once and is bound by that (csrc/cuda/logits.h). Then a block a row: its
// dependent reads are the chunks' maxima, the blocks' maxima, a few blocks of logits for the rank and a few for the
// alternatives, each some tenths of a microsecond and hidden by the other rows where there are many.
#include "cuda/candidates.h"
#include "cuda/elementwise.h"
#include "ops/token_logprobs/token_logprobs.h"

namespace qwen2::cuda {
namespace {

struct Targets {
  const int32_t* ids;  // [T]
  int64_t stride;
  int64_t vocabulary;

  __device__ int32_t of(int64_t t) const { return ids[t * stride]; }
  __device__ bool valid(int32_t target) const { return target >= -1 && target < vocabulary; }
};

struct Errors {
  LogitErrors logits;
  ErrorSlot target;
  explicit Errors(Context& context)
      : logits(context),
        target(context.errors("row %lld: target %lld is beyond the %lld tokens of the vocabulary")) {}
};

// A warp a chunk of a row.
__global__ void __launch_bounds__(survey_threads)
    survey_kernel(Rows<const float> logits, Targets targets, bool aligned, Surveys surveys) {
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();
  const auto [t, chunk] = survey_place(surveys.chunks);
  if (chunk >= surveys.chunks) return;
  const int32_t target = targets.of(t);
  if (target == -1 || !targets.valid(target)) return;
  ChunkLogits x;
  load_quads<true, quad_step>(x, logits.row(t), chunk * logits_chunk + 4 * lane_index(), targets.vocabulary, aligned,
                              -infinity);
  const Survey survey = surveys.row(t);
  const float max = find_maxima(x, survey, chunk);
  sum_exponentials(x, survey, chunk, max, steepness_of(1));
}

__device__ void write_nothing(const TokenLogprobsArgs& args, int64_t t) {
  if (threadIdx.x == 0) {
    *args.logprobs.row<float>(t) = 0;
    *args.ranks.row<int32_t>(t) = 0;
  }
  if (!args.top_ids.present()) return;
  for (int64_t i = threadIdx.x; i < args.top_ids.shape[1]; i += blockDim.x) {
    args.top_ids.row<int32_t>(t)[i] = -1;
    args.top_logprobs.row<float>(t)[i] = 0;
  }
}

// A block a row.
__global__ void __launch_bounds__(most_row_threads, 1)
    score_kernel(TokenLogprobsArgs args, Targets targets, bool aligned, Surveys surveys, Errors errors) {
  griddepcontrol_wait();
  RowShared& s = shared<RowShared>();
  const int64_t t = blockIdx.x, size = targets.vocabulary, chunks = surveys.chunks;
  const int32_t target = targets.of(t);
  if (!targets.valid(target)) {
    if (threadIdx.x == 0) report(errors.target, t, target, size);
    return;
  }
  if (target == -1) {
    write_nothing(args, t);
    return;
  }
  const RawLogits logits{args.logits.row<float>(t), size, aligned};
  const Survey survey = surveys.row(t);
  const float max = largest(survey, chunks, true, s.scan);
  if (max == infinity || max == -infinity) {
    report_logits(errors.logits, t, logits.logits, size, max, s.scan);
    return;
  }
  const Mass total = total_mass(survey, chunks, Weigher{max, steepness_of(1)}, s.scan);
  const float logit = logits.logits[target];
  if (threadIdx.x == 0) {
    s.log_sum = log_of_mass(max, total);
    *args.logprobs.row<float>(t) = static_cast<float>(logit - s.log_sum);
  }
  const Codes codes = codes_of(chunks);
  const int32_t rank = rank_of(survey, chunks, logits, codes, logit);
  if (threadIdx.x == 0) *args.ranks.row<int32_t>(t) = rank;
  if (args.top_ids.present())
    write_top({args.top_ids.row<int32_t>(t), args.top_logprobs.row<float>(t), args.top_ids.shape[1]}, survey, chunks,
              logits, codes, max, s.log_sum);
}

}  // namespace

void token_logprobs(Context& context, const TokenLogprobsArgs& args) {
  const int64_t tokens = args.logits.shape[0], vocabulary = args.logits.shape[1], chunks = chunks_of(vocabulary);
  if (tokens == 0) return;
  require_vocabulary("token_logprobs", context, vocabulary);
  const bool aligned = quads_aligned(args.logits);
  const Targets targets{args.targets.as<int32_t>(), args.targets.strides[0], vocabulary};
  const size_t bytes = static_cast<size_t>(tokens * Surveys::floats(chunks)) * sizeof(float);
  const Surveys surveys{static_cast<float*>(context.workspace(bytes)), chunks};
  launch(context, survey_kernel,
         {.blocks = survey_blocks(tokens, chunks), .threads = survey_threads, .dependent = true},
         rows_of<const float>(args.logits), targets, aligned, surveys);
  launch(context, score_kernel,
         {.blocks = static_cast<unsigned>(tokens),
          .threads = row_threads(chunks),
          .shared_bytes = row_shared_bytes(chunks),
          .dependent = true},
         args, targets, aligned, surveys, Errors(context));
}

}  // namespace qwen2::cuda
