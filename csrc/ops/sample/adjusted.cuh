// What a row of `sample` asks for, and its logits after masks, biases and penalties (steps 2 and 3). They are computed
// anew wherever they are read: writing them down would cost the survey as much again as reading the logits.
#pragma once

#include "cuda/candidates.h"
#include "ops/sample/row.h"

namespace qwen2::cuda {

// A call of `sample`, and which of its tensors can be read 16 bytes at a time.
struct SampleCall {
  SampleArgs args;
  bool logits_aligned, counts_aligned;
};

struct Job {
  SampleRow row;
  bool biased, penalized, adjusts;
  bool draws;    // or takes the largest
  bool narrows;  // top-k or min-p find the candidates, so that nobody needs the mass of the whole vocabulary
  bool sums;     // the survey has sums, of this slope:
  float slope;
  bool own_sums;  // which are not those of the logits as they came
};

__device__ inline Job job_of(const SampleCall& call, int64_t b) {
  const SampleRow row = read_row(call.args, b);
  // The survey meets rows before they are checked.
  const bool has_state = row.state >= 0 && row.state < states_of(call.args);
  const bool has_biases = row.bias_begin >= 0 && row.bias_end <= biases_of(call.args);
  Job job{};
  job.row = row;
  job.biased = has_biases && row.bias_end > row.bias_begin;
  job.penalized = has_state && (row.repetition != 1 || row.presence != 0 || row.frequency != 0);
  job.adjusts = job.biased || job.penalized || call.args.allowed.present();
  job.draws = row.temperature > 0;
  job.narrows = row.top_k > 0 || row.min_p > 0;
  job.sums = job.draws && !job.narrows;
  job.slope = job.draws ? 1 / row.temperature : 1;
  job.own_sums = job.sums && (job.adjusts || job.slope != 1);
  return job;
}

template <int step, int quads>
__device__ inline void mask(float (&x)[quads][4], const int32_t* allowed, int64_t first, int64_t size) {
  for (int q = 0; q < quads; ++q) {
    const int64_t v = first + q * step;
    if (v >= size) continue;
    const uint32_t bits = static_cast<uint32_t>(allowed[v / 32]) >> v % 32;
    for (int i = 0; i < 4; ++i) x[q][i] = bits >> i & 1u ? x[q][i] : -infinity;
  }
}

// The biases of a token in their order, each sum rounded. +∞ stands for what is not a number, and is reported.
template <int step, int quads>
__device__ inline void add_biases(float (&x)[quads][4], const SampleArgs& args, const SampleRow& row, int64_t first) {
  for (int64_t b = row.bias_begin; b < row.bias_end; ++b) {
    const int offset = *args.bias_ids.row<int32_t>(b) - static_cast<int>(first);
    if (offset < 0 || offset >= quads * step) continue;
    const float value = *args.bias_values.row<float>(b);
    for (int q = 0; q < quads; ++q)
      for (int i = 0; i < 4; ++i) {
        if (offset != q * step + i) continue;
        const float sum = x[q][i] + value;
        x[q][i] = sum == sum ? sum : infinity;
      }
  }
}

// The logit of a token of the output, in double. Not inlined: it is for the few tokens that were seen.
__device__ __attribute__((noinline)) float penalize_in_double(float logit, float repetition, float frequency,
                                                              float presence, int32_t count) {
  double x = logit;
  x = x > 0 ? x / repetition : x * repetition;
  x -= static_cast<double>(frequency) * count;
  return static_cast<float>(x - presence);
}

// The logit of a token that the prompt or the output has. A quotient or a product rounded to double and then to float
// is that rounded to float at once, so double is for what frequency or presence change.
__device__ inline float penalize(const SampleRow& row, float logit, int32_t count) {
  if (count > 0 && (row.frequency != 0 || row.presence != 0))
    return penalize_in_double(logit, row.repetition, row.frequency, row.presence, count);
  return logit > 0 ? logit / row.repetition : logit * row.repetition;
}

// Counts are loaded a few quads at a time: all at once would take as many registers as the logits.
template <int step, int quads>
__device__ inline void penalize_quads(float (&x)[quads][4], const SampleCall& call, const SampleRow& row, int64_t first,
                                      int64_t size) {
  constexpr int loaded = quads < 4 ? quads : 4;
  const int32_t* prompt = call.args.prompt_masks.row<int32_t>(row.state);
  const int32_t* counts = call.args.counts.row<int32_t>(row.state);
#pragma unroll
  for (int begin = 0; begin < quads; begin += loaded) {
    int32_t own[loaded][4];
    load_quads<false, step>(own, counts, first + begin * step, size, call.counts_aligned, 0);
#pragma unroll
    for (int q = 0; q < loaded; ++q) {
      const int64_t v = first + (begin + q) * step;
      if (v >= size) continue;
      const uint32_t seen = static_cast<uint32_t>(prompt[v / 32]) >> v % 32 & 15u;
      // Most tokens were never seen.
      if ((seen | static_cast<uint32_t>(own[q][0] | own[q][1] | own[q][2] | own[q][3])) == 0) continue;
      for (int i = 0; i < 4; ++i)
        if (own[q][i] > 0 || seen >> i & 1u) x[begin + q][i] = penalize(row, x[begin + q][i], own[q][i]);
    }
  }
}

// Steps 2 and 3 of logits first + q · step … + 3.
template <int step, int quads>
__device__ inline void adjust(float (&x)[quads][4], const SampleCall& call, const Job& job, int64_t first) {
  const int64_t size = call.args.logits.shape[1];
  if (call.args.allowed.present()) mask<step>(x, call.args.allowed.row<int32_t>(job.row.index), first, size);
  if (job.biased) add_biases<step>(x, call.args, job.row, first);
  if (job.penalized) penalize_quads<step>(x, call, job.row, first, size);
}

struct Part {
  PartLogits x;
};

// Not inlined: the choice reads logits in many places.
__device__ __attribute__((noinline)) Part adjusted_part(const SampleCall& call, const Job& job, Part part,
                                                        int64_t first) {
  adjust<4>(part.x, call, job, first);
  return part;
}

struct AdjustedLogits {
  const SampleCall& call;
  const Job& job;
  RawLogits raw;

  __device__ void load(PartLogits& x, int64_t first) const {
    Part part;
    raw.load(part.x, first);
    if (job.adjusts) part = adjusted_part(call, job, part, first);
    for (int q = 0; q < part_quads; ++q)
      for (int i = 0; i < 4; ++i) x[q][i] = part.x[q][i];
  }
};

}  // namespace qwen2::cuda
