// sample: two launches.
//   1. The survey, a warp a chunk of 1024 logits, reads the logits once (39 MB of B = 64, V = 152064: 9 µs at 4.3 TB/s)
//      and is bound by that; of rows with penalties the counts as well, which are as many bytes again.
//   2. The choice, a block a row. A chain of reads that wait for one another: parameters and the chunks' maxima; the
//      blocks' maxima, for a floor; the few blocks of logits that reach it; those above the chosen token, for its rank;
//      those of the alternatives. Between them are some thirty barriers of the block. Bound by these latencies, not by
//      bytes: rows go side by side, one a multiprocessor.
//      Where the blocks' maxima give no floor (top-p alone of a flat distribution, a top-k above V / 64), the row's
//      logits are read from L2 again, in some six passes by one multiprocessor.
// Double precision: a logarithm and a few products a row, by one thread or once a thread; frequency and presence
// penalties of tokens of the output. Sums across warps are of integers (cuda/logits.h), so that a row's outputs depend on
// nothing beside it.
#include "cuda/elementwise.h"
#include "ops/sample/choice.cuh"

namespace qwen2::cuda {
namespace {

// A warp a chunk of a row.
__global__ void __launch_bounds__(survey_threads)
    survey_kernel(const __grid_constant__ SampleCall call, Surveys raw, Surveys adjusted) {
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();
  const auto [b, chunk] = survey_place(raw.chunks);
  if (chunk >= raw.chunks) return;
  ChunkLogits x;
  const int64_t first = chunk * logits_chunk + 4 * lane_index();
  load_quads<true, quad_step>(x, call.args.logits.row<float>(b), first, call.args.logits.shape[1], call.logits_aligned,
                              -infinity);
  const Job job = job_of(call, b);
  float max = find_maxima(x, raw.row(b), chunk);
  sum_exponentials(x, raw.row(b), chunk, max, steepness_of(1));
  if (job.adjusts) {
    adjust<quad_step>(x, call, job, first);
    max = find_maxima(x, adjusted.row(b), chunk);
  }
  if (job.own_sums) sum_exponentials(x, adjusted.row(b), chunk, max, steepness_of(job.slope));
}

struct SampleErrors {
  ErrorSlot row[row_faults];
  ErrorSlot bias_id, bias_value, no_token, infinite;
  LogitErrors logits;

  explicit SampleErrors(Context& context)
      : bias_id(context.errors("row %lld: a bias is for token %lld, beyond the %lld tokens of the vocabulary")),
        bias_value(context.errors("row %lld: the bias of token %lld is %g; it must be a number below +inf")),
        no_token(context.errors(
            "row %lld: no token is left to choose from; every logit is -inf after masks and biases")),
        infinite(context.errors("row %lld: biases or penalties made a logit infinite")),
        logits(context) {
    for (int fault = 0; fault < row_faults; ++fault) row[fault] = context.errors(row_fault_words[fault]);
  }
};

__device__ bool check_parameters(const SampleArgs& args, const SampleRow& row, const SampleErrors& errors) {
  const RowFault fault = fault_of(args, row);
  if (fault == row_faults) return true;
  const FaultNumbers numbers = numbers_of(args, row, fault);
  if (threadIdx.x == 0) report(errors.row[fault], row.index, numbers.first, numbers.second, numbers.value);
  return false;
}

__device__ bool check_biases(const SampleArgs& args, const SampleRow& row, const SampleErrors& errors) {
  const int64_t size = args.logits.shape[1];
  Wide left = 0;  // from the first faulty one on
  for (int64_t i = row.bias_begin + threadIdx.x; i < row.bias_end && left == 0; i += blockDim.x) {
    const int32_t id = *args.bias_ids.row<int32_t>(i);
    const bool fine = id >= 0 && id < size && *args.bias_values.row<float>(i) < infinity;
    if (!fine) left = static_cast<Wide>(row.bias_end - i);
  }
  left = block_max(left, shared<RowShared>().scan);
  if (left == 0) return true;
  if (threadIdx.x != 0) return false;
  const int64_t i = row.bias_end - static_cast<int64_t>(left);
  const int32_t id = *args.bias_ids.row<int32_t>(i);
  if (id < 0 || id >= size)
    report(errors.bias_id, row.index, id, size);
  else
    report(errors.bias_value, row.index, id, 0, *args.bias_values.row<float>(i));
  return false;
}

// Step 1, and the outputs.
__device__ void write_row(const SampleArgs& args, int64_t b, int32_t token, const Survey& survey, int64_t chunks,
                          const RawLogits& logits, const Codes& codes, float max) {
  const double log_sum = shared<RowShared>().log_sum;
  const float logit = logits.logits[token];
  const int32_t rank = rank_of(survey, chunks, logits, codes, logit);
  if (threadIdx.x == 0) {
    *args.tokens.row<int32_t>(b) = token;
    *args.logprobs.row<float>(b) = static_cast<float>(logit - log_sum);
    *args.ranks.row<int32_t>(b) = rank;
  }
  if (args.top_ids.present())
    write_top({args.top_ids.row<int32_t>(b), args.top_logprobs.row<float>(b), args.top_ids.shape[1]}, survey, chunks,
              logits, codes, max, log_sum);
}

// False if the row has an error.
__device__ bool sample_row(const SampleCall& call, int64_t b, const Surveys& raw_surveys,
                           const Surveys& adjusted_surveys, const SampleErrors& errors) {
  RowShared& s = shared<RowShared>();
  const SampleArgs& args = call.args;
  const Job job = job_of(call, b);
  if (!check_parameters(args, job.row, errors)) return false;
  if (job.biased && !check_biases(args, job.row, errors)) return false;

  const RawLogits raw{args.logits.row<float>(b), args.logits.shape[1], call.logits_aligned};
  const int64_t chunks = raw_surveys.chunks;
  const Survey raw_survey = raw_surveys.row(b), other = adjusted_surveys.row(b);
  const float raw_max = largest(raw_survey, chunks, true, s.scan);
  if (raw_max == infinity || raw_max == -infinity) {
    report_logits(errors.logits, b, raw.logits, raw.size, raw_max, s.scan);
    return false;
  }
  const Mass raw_total = total_mass(raw_survey, chunks, Weigher{raw_max, steepness_of(1)}, s.scan);
  if (threadIdx.x == 0) s.log_sum = log_of_mass(raw_max, raw_total);

  Survey survey = job.adjusts ? other : raw_survey;
  survey.chunk_sums = job.own_sums ? other.chunk_sums : raw_survey.chunk_sums;
  const float max = job.adjusts ? largest(survey, chunks, false, s.scan) : raw_max;
  if (max == infinity || max == -infinity) {
    if (threadIdx.x == 0) report(max > 0 ? errors.infinite : errors.no_token, b);
    return false;
  }
  const Weigher weigh{max, steepness_of(job.slope)};
  const Mass total = !job.sums ? 0 : job.own_sums ? total_mass(survey, chunks, weigh, s.scan) : raw_total;
  const AdjustedLogits logits{call, job, raw};
  const Codes codes = codes_of(chunks);
  const int32_t token = choose({job, logits, survey, chunks, codes, max, weigh, total});
  write_row(args, b, token, raw_survey, chunks, raw, codes, raw_max);
  return true;
}

// Blocks that are done, and those of them whose row had an error; zero before a launch and after it.
struct Arrivals {
  unsigned done, failed;
};

// Step 5, by the block that is done last: if a row has an error, no token is counted.
__device__ void count_tokens(const SampleArgs& args, bool sampled, Arrivals* arrivals) {
  RowShared& s = shared<RowShared>();
  __syncthreads();
  if (threadIdx.x == 0) {
    if (!sampled) atomicAdd(&arrivals->failed, 1u);
    __threadfence();
    s.found = atomicAdd(&arrivals->done, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (s.found == 0) return;
  __threadfence();
  const unsigned failed = *const_cast<const volatile unsigned*>(&arrivals->failed);
  for (int64_t b = threadIdx.x; b < args.logits.shape[0] && failed == 0; b += blockDim.x) {
    const int32_t state = *args.rows.row<int32_t>(b);
    const int32_t token = *const_cast<const volatile int32_t*>(args.tokens.row<int32_t>(b));
    if (state >= 0) atomicAdd(args.counts.row<int32_t>(state) + token, 1);
  }
  __syncthreads();
  if (threadIdx.x == 0) *arrivals = {0, 0};
}

// A block a row.
__global__ void __launch_bounds__(most_row_threads, 1)
    choice_kernel(const __grid_constant__ SampleCall call, Surveys raw, Surveys adjusted, SampleErrors errors,
                  Arrivals* arrivals) {
  griddepcontrol_wait();
  const bool sampled = sample_row(call, blockIdx.x, raw, adjusted, errors);
  if (call.args.counts.present()) count_tokens(call.args, sampled, arrivals);
}

constexpr int history_threads = 256;

// A thread a token of the history.
__global__ void __launch_bounds__(history_threads)
    history_kernel(LoadHistoryArgs args, ErrorSlot bad_prompt, ErrorSlot bad_output) {
  const int64_t i = global_thread(), prompts = args.prompt.shape[0], vocabulary = args.counts.shape[1];
  const bool prompt = i < prompts;
  const int64_t at = prompt ? i : i - prompts;
  if (!prompt && at >= args.output.shape[0]) return;
  const int32_t token = prompt ? *args.prompt.row<int32_t>(at) : *args.output.row<int32_t>(at);
  if (token < 0 || token >= vocabulary) {
    if (prompt)
      report(bad_prompt, at, token, vocabulary);
    else
      report(bad_output, at, token, vocabulary);
  } else if (prompt) {
    atomicOr(reinterpret_cast<unsigned*>(args.prompt_masks.row<int32_t>(args.row)) + token / 32, 1u << token % 32);
  } else {
    atomicAdd(args.counts.row<int32_t>(args.row) + token, 1);
  }
}

void clear_row(Context& context, const Tensor& t, int32_t row) {
  require(cudaMemsetAsync(t.row<int32_t>(row), 0, static_cast<size_t>(t.shape[1]) * sizeof(int32_t), context.stream()),
          "cudaMemset");
}

}  // namespace

void sample(Context& context, const SampleArgs& args) {
  const int64_t rows = args.logits.shape[0], chunks = chunks_of(args.logits.shape[1]);
  if (rows == 0) return;
  require_vocabulary("sample", context, args.logits.shape[1]);
  const SampleCall call{args, quads_aligned(args.logits), args.counts.present() && quads_aligned(args.counts)};
  const int64_t floats = rows * Surveys::floats(chunks);
  float* memory = static_cast<float*>(context.workspace(static_cast<size_t>(2 * floats) * sizeof(float)));
  const Surveys raw{memory, chunks}, adjusted{memory + floats, chunks};
  launch(context, survey_kernel, {.blocks = survey_blocks(rows, chunks), .threads = survey_threads, .dependent = true},
         call, raw, adjusted);
  launch(context, choice_kernel,
         {.blocks = static_cast<unsigned>(rows),
          .threads = row_threads(chunks),
          .shared_bytes = row_shared_bytes(chunks),
          .dependent = true},
         call, raw, adjusted, SampleErrors(context), reinterpret_cast<Arrivals*>(context.counters()));
}

void load_history(Context& context, const LoadHistoryArgs& args) {
  clear_row(context, args.prompt_masks, args.row);
  clear_row(context, args.counts, args.row);
  const int64_t tokens = args.prompt.shape[0] + args.output.shape[0];
  if (tokens == 0) return;
  launch(context, history_kernel, {.blocks = blocks_for(tokens, history_threads), .threads = history_threads}, args,
         context.errors("prompt[%lld] = %lld is beyond the %lld tokens of the vocabulary"),
         context.errors("output[%lld] = %lld is beyond the %lld tokens of the vocabulary"));
}

}  // namespace qwen2::cuda
