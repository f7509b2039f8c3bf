#include "cpu/candidates.h"
#include "cpu/logits.h"
#include "ops/sample/philox.h"
#include "ops/sample/row.h"
#include "ops/sample/sample.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

static_assert(logits_chunk == sample_chunk);

// A row on its way through the steps.
struct Job {
  SampleRow row;
  Survey raw;       // of the logits as they came, slope 1
  Survey adjusted;  // after masks, biases and penalties; of the same logits where a row has none
  bool adjusts;     // whether the adjusted logits are a copy
  bool sums;        // whether the adjusted survey has sums, of this slope:
  float slope;      // 1 ÷ temperature, finite, so that 0 · slope is 0
};

bool penalized(const SampleRow& row) {
  return row.state >= 0 && (row.repetition != 1 || row.presence != 0 || row.frequency != 0);
}

bool draws(const SampleRow& row) { return row.temperature > 0; }

// Whether top-k or min-p find the candidates, so that nobody needs the mass of the whole vocabulary.
bool narrows(const SampleRow& row) { return row.top_k > 0 || row.min_p > 0; }

// One slot of scratch memory a row in flight: the adjusted logits and two surveys.
int64_t slot_floats(int64_t vocabulary) {
  return (vocabulary + 2 * Survey::floats(vocabulary) + 15) / 16 * 16;
}

// The row's own copy of the logits, with its biases added; what has no biases is copied along with its penalties.
void add_biases(const SampleArgs& args, const SampleRow& row, float* adjusted) {
  const int64_t vocabulary = args.logits.shape[1];
  __builtin_memcpy(adjusted, args.logits.row<float>(row.index), static_cast<size_t>(vocabulary) * sizeof(float));
  for (int64_t i = row.bias_begin; i < row.bias_end; ++i) {
    const Bias bias = bias_at(args, i, row.index);
    adjusted[bias.id] += bias.value;
  }
}

Job start(const SampleArgs& args, int64_t b, float* slot) {
  constexpr float steepest = __FLT_MAX__;
  const int64_t vocabulary = args.logits.shape[1];
  const float* logits = args.logits.row<float>(b);
  float* surveys = slot + vocabulary;
  const SampleRow row = sample_row(args, b);
  const bool biased = row.bias_end > row.bias_begin;
  const bool adjusts = biased || args.allowed.present() || penalized(row);
  const float slope = !draws(row) ? 1 : 1 / row.temperature > steepest ? steepest : 1 / row.temperature;
  Job job = {.row = row,
             .raw = survey_in(surveys, logits, vocabulary),
             .adjusted = {},
             .adjusts = adjusts,
             .sums = draws(row) && !narrows(row),
             .slope = slope};
  job.adjusted = job.raw;
  if (adjusts) job.adjusted = survey_in(surveys + Survey::floats(vocabulary), slot, vocabulary);
  // Other temperatures share the maxima, not the sums.
  if (!adjusts && job.sums && slope != 1)
    job.adjusted.chunk_sums = survey_in(surveys + Survey::floats(vocabulary), logits, vocabulary).chunk_sums;
  if (biased) add_biases(args, row, slot);
  return job;
}

// The logit of a token that the prompt or the output has.
float penalize(const SampleRow& row, double logit, int32_t count) {
  logit = logit > 0 ? logit / row.repetition : logit * row.repetition;
  logit -= static_cast<double>(row.frequency) * count;
  if (count > 0) logit -= row.presence;
  return static_cast<float>(logit);
}

// Penalties of ids begin … end, a multiple of 32 ids from begin but for the vocabulary's end.
void penalize_chunk(const SampleArgs& args, const SampleRow& row, float* adjusted, int64_t begin, int64_t end) {
  const int32_t* prompt = args.prompt_masks.row<int32_t>(row.state);
  const int32_t* counts = args.counts.row<int32_t>(row.state);
  for (int64_t at = begin; at < end; at += 32) {
    const int64_t stop = at + 32 < end ? at + 32 : end;
    // Most words of 32 ids have none that was seen.
    int32_t seen = prompt[at / 32];
    for (int64_t v = at; v < stop; ++v) seen |= counts[v];
    if (seen == 0) continue;
    for (int64_t v = at; v < stop; ++v)
      if (counts[v] > 0 || bit(prompt, v)) adjusted[v] = penalize(row, adjusted[v], counts[v]);
  }
}

void mask_chunk(const int32_t* allowed, float* adjusted, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; at += 32) {
    if (allowed[at / 32] == -1) continue;
    const int64_t stop = at + 32 < end ? at + 32 : end;
    for (int64_t v = at; v < stop; ++v) adjusted[v] = bit(allowed, v) ? adjusted[v] : -infinity;
  }
}

// Steps 1 to 3 of a chunk.
void survey_chunk(const SampleArgs& args, const Job& job, int64_t chunk) {
  const SampleRow& row = job.row;
  find_maxima(job.raw, chunk);
  sum_exponentials(job.raw, chunk, 1);
  if (job.adjusts) {
    float* adjusted = const_cast<float*>(job.adjusted.logits);
    const int64_t begin = chunk * logits_chunk, size = job.raw.size - begin;
    const int64_t end = begin + (size < logits_chunk ? size : logits_chunk);
    if (row.bias_begin == row.bias_end)
      __builtin_memcpy(adjusted + begin, job.raw.logits + begin, static_cast<size_t>(end - begin) * sizeof(float));
    if (args.allowed.present()) mask_chunk(args.allowed.row<int32_t>(row.index), adjusted, begin, end);
    if (penalized(row)) penalize_chunk(args, row, adjusted, begin, end);
    find_maxima(job.adjusted, chunk);
  }
  if (job.sums && job.adjusted.chunk_sums != job.raw.chunk_sums) sum_exponentials(job.adjusted, chunk, job.slope);
}

// The smallest float at or above x.
float round_up(double x) {
  const float rounded = static_cast<float>(x);
  return rounded < x ? std::nextafterf(rounded, infinity) : rounded;
}

// A logit that all tokens of the answer reach: whatever is below is cut by min-p, top-k or top-p alike.
float candidate_floor(Candidates& list, const Job& job, float max, double total) {
  const SampleRow& row = job.row;
  float floor = lowest;
  if (row.min_p > 0) floor = round_up(max + std::log(static_cast<double>(row.min_p)) * row.temperature);
  if (row.top_k > 0) {
    const float top = floor_of_top(list, job.adjusted, row.top_k);
    floor = top > floor ? top : floor;
  }
  if (!narrows(row)) {
    // V tokens of this weight together would not fill what top-p leaves out. Half of it, to be clear of roundings.
    const double weight = 0.5 * (1.0 - row.top_p) * total / static_cast<double>(job.raw.size);
    floor = static_cast<float>(max + std::log(weight) * row.temperature);
  }
  return floor;
}

double uniform(const SampleRow& row) {
  return sample_uniform(row.seed_low, row.seed_high, row.token_index, row.choice_index);
}

// Draws from what min-p, top-k and top-p keep. `total`: the mass of the whole vocabulary where neither of the first two
// is asked for.
int32_t draw_from_candidates(const Job& job, Candidates& list, float max, double total) {
  const SampleRow& row = job.row;
  collect(list, job.adjusted, candidate_floor(list, job, max, total));
  weigh(list, max, job.slope);
  if (row.top_k > 0 && row.top_k < list.count)
    keep(list, find_cut(list.logits, nullptr, list.count, row.top_k, 0, list.rest_logits, nullptr));
  if (row.top_p < 1) {
    const double mass = row.top_p * (narrows(row) ? mass_of(list) : total);
    keep(list, find_cut(list.logits, list.weights, list.count, list.count, mass, list.rest_logits, list.rest_weights));
  }
  const double goal = uniform(row) * mass_of(list);
  double cumulative = 0;
  for (int64_t i = 0; i < list.count; ++i) {
    cumulative += list.weights[i];
    if (cumulative > goal) return list.ids[i];
  }
  return list.ids[list.count - 1];
}

// Draws from all tokens: the chunk by the chunks' sums, then within the chunk.
int32_t draw_from_all(const Job& job, float max, double total) {
  const Survey& survey = job.adjusted;
  const double goal = uniform(job.row) * total;
  double before = 0;
  int64_t chunk = 0;
  for (;; ++chunk) {
    const double mass = chunk_mass(survey, chunk, max, job.slope);
    if (before + mass > goal || chunk + 1 == chunks_of(survey.size)) break;
    before += mass;
  }
  alignas(64) float padded[logits_block], weights[logits_block];
  double cumulative = before;
  int32_t token = -1;
  for (int64_t block = chunk * chunk_blocks; block < block_end(survey, chunk); ++block) {
    const float* x = block_of(survey, block, padded);
    for (int i = 0; i < logits_block; i += lanes)
      store(weights + i, exp(mul(sub(load(x + i), splat(max)), splat(job.slope))));
    for (int i = 0; i < logits_block; ++i) {
      if (weights[i] == 0) continue;
      token = static_cast<int32_t>(block * logits_block + i);
      cumulative += weights[i];
      if (cumulative > goal) return token;
    }
  }
  // The chunk's own sum, rounded otherwise, promised a little more.
  return token;
}

// Step 4.
int32_t choose(const Job& job, Candidates& list) {
  const SampleRow& row = job.row;
  const float max = largest(job.adjusted);
  if (max == -infinity) fail_no_token(row.index);
  if (max == infinity)
    fail("invalid_argument", "row %lld: biases or penalties made a logit infinite", static_cast<long long>(row.index));
  if (!draws(row)) return first_with(job.adjusted, max);
  const double total = job.sums ? total_mass(job.adjusted, max, job.slope) : 0;
  if (row.top_p < 1 || narrows(row)) return draw_from_candidates(job, list, max, total);
  return draw_from_all(job, max, total);
}

void finish(const SampleArgs& args, const Job& job, Candidates list) {
  const int64_t b = job.row.index;
  const double log_sum = log_sum_exp(job.raw, b);
  const int32_t token = choose(job, list);
  const float logit = job.raw.logits[token];
  *args.tokens.row<int32_t>(b) = token;
  *args.logprobs.row<float>(b) = static_cast<float>(logit - log_sum);
  *args.ranks.row<int32_t>(b) = rank_of(job.raw, logit);
  if (args.top_ids.present())
    write_top(list, job.raw, log_sum, args.top_ids.shape[1], args.top_ids.row<int32_t>(b),
              args.top_logprobs.row<float>(b));
}

}  // namespace

// Rows go in groups of one a thread: the threads share the chunks of a group's rows, so that a single row is fast, then
// each takes a row to choose its token, which is little work.
void sample(Context& context, const SampleArgs& args) {
  const int64_t rows = args.logits.shape[0], vocabulary = args.logits.shape[1], chunks = chunks_of(vocabulary);
  const int64_t group = rows < context.threads() ? rows : context.threads(), slot = slot_floats(vocabulary);
  const size_t slots_bytes = static_cast<size_t>(group * slot) * sizeof(float);
  char* shared = static_cast<char*>(context.scratch(-1, slots_bytes + static_cast<size_t>(group) * sizeof(Job)));
  float* slots = reinterpret_cast<float*>(shared);
  Job* jobs = reinterpret_cast<Job*>(shared + slots_bytes);
  for (int64_t first = 0; first < rows; first += group) {
    const int64_t size = rows - first < group ? rows - first : group;
    for (int64_t i = 0; i < size; ++i) jobs[i] = start(args, first + i, slots + i * slot);
    const int64_t piece = 1 + size * chunks / (8 * context.threads());
    parallel(context, size * chunks, piece, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) survey_chunk(args, jobs[i / chunks], i % chunks);
    });
    parallel(context, size, 1, [&](int64_t begin, int64_t end, int worker) {
      void* memory = context.scratch(worker, static_cast<size_t>(Candidates::bytes(vocabulary)));
      for (int64_t i = begin; i < end; ++i) finish(args, jobs[i], candidates_in(memory, vocabulary));
    });
  }
  count_tokens(args);
}

void load_history(Context&, const LoadHistoryArgs& args) {
  const int64_t vocabulary = args.counts.shape[1];
  int32_t* prompt_mask = args.prompt_masks.row<int32_t>(args.row);
  int32_t* counts = args.counts.row<int32_t>(args.row);
  __builtin_memset(prompt_mask, 0, static_cast<size_t>(args.prompt_masks.shape[1]) * sizeof(int32_t));
  __builtin_memset(counts, 0, static_cast<size_t>(vocabulary) * sizeof(int32_t));
  for (int64_t i = 0; i < args.prompt.shape[0]; ++i)
    set_bit(prompt_mask, history_token(args.prompt, i, "prompt", vocabulary));
  for (int64_t i = 0; i < args.output.shape[0]; ++i)
    ++counts[history_token(args.output, i, "output", vocabulary)];
}

}  // namespace qwen2::cpu::QWEN2_SIMD
