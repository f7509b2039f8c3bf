// One pass over a row of logits, cut into chunks that any thread may take, and what can be told from it afterwards
// without another: the log of the sum of exponentials, ranks, where the largest are. Shared by sample and token_logprobs.
#pragma once

#include <cmath>

#include "cpu/simd.h"

namespace qwen2::cpu::QWEN2_SIMD {

constexpr int64_t logits_chunk = 1024;  // ids that are summed apart
constexpr int64_t logits_block = 64;    // ids that share a maximum
constexpr int64_t chunk_blocks = logits_chunk / logits_block;
constexpr float infinity = __builtin_inff();

constexpr int64_t chunks_of(int64_t size) { return (size + logits_chunk - 1) / logits_chunk; }
constexpr int64_t blocks_of(int64_t size) { return (size + logits_block - 1) / logits_block; }

// What a pass over a row leaves behind.
struct Survey {
  const float* logits;  // [size]
  int64_t size;
  float* block_maxima;  // [blocks_of(size)]
  float* chunk_maxima;  // [chunks_of(size)]
  float* chunk_sums;    // [chunks_of(size)], each Σ exp((logit − the chunk's maximum) · slope)

  static constexpr int64_t floats(int64_t size) { return blocks_of(size) + 2 * chunks_of(size); }
};

// A survey of a row, over `floats(size)` floats of memory.
static inline Survey survey_in(float* memory, const float* logits, int64_t size) {
  float* chunk_maxima = memory + blocks_of(size);
  return {logits, size, memory, chunk_maxima, chunk_maxima + chunks_of(size)};
}

// A block's 64 logits, the last block's filled up with −∞ in `padded`.
static inline const float* block_of(const Survey& survey, int64_t block, float* padded) {
  const float* logits = survey.logits + block * logits_block;
  const int64_t size = survey.size - block * logits_block;
  if (size >= logits_block) return logits;
  for (int64_t i = 0; i < logits_block; ++i) padded[i] = i < size ? logits[i] : -infinity;
  return padded;
}

static inline int64_t block_end(const Survey& survey, int64_t chunk) {
  const int64_t end = (chunk + 1) * chunk_blocks, last = blocks_of(survey.size);
  return end < last ? end : last;
}

static inline void find_maxima(const Survey& survey, int64_t chunk) {
  alignas(64) float padded[logits_block];
  float chunk_max = -infinity;
  for (int64_t block = chunk * chunk_blocks; block < block_end(survey, chunk); ++block) {
    const float* x = block_of(survey, block, padded);
    F32 max_lanes = splat(-infinity);
    for (int64_t i = 0; i < logits_block; i += lanes) max_lanes = max(load(x + i), max_lanes);
    const float block_max = max_lane(max_lanes);
    survey.block_maxima[block] = block_max;
    chunk_max = block_max > chunk_max ? block_max : chunk_max;
  }
  survey.chunk_maxima[chunk] = chunk_max;
}

// After find_maxima. A NaN or +∞ among the logits makes the sum NaN.
static inline void sum_exponentials(const Survey& survey, int64_t chunk, float slope) {
  alignas(64) float padded[logits_block];
  const float chunk_max = survey.chunk_maxima[chunk];
  const F32 origin = splat(chunk_max == -infinity ? 0 : chunk_max), steepness = splat(slope);
  constexpr int chains = 4;  // hide the latency of the polynomial
  F32 sums[chains] = {zero(), zero(), zero(), zero()};
  for (int64_t block = chunk * chunk_blocks; block < block_end(survey, chunk); ++block) {
    const float* x = block_of(survey, block, padded);
    for (int64_t i = 0; i < logits_block; i += chains * lanes)
      for (int j = 0; j < chains; ++j)
        sums[j] = add(sums[j], exp(mul(sub(load(x + i + j * lanes), origin), steepness)));
  }
  survey.chunk_sums[chunk] = sum(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

static inline float largest(const Survey& survey) {
  float max = -infinity;
  for (int64_t c = 0; c < chunks_of(survey.size); ++c)
    max = survey.chunk_maxima[c] > max ? survey.chunk_maxima[c] : max;
  return max;
}

// The exponentials of a chunk, relative to those of the row's maximum `origin`.
static inline double chunk_mass(const Survey& survey, int64_t chunk, float origin, float slope) {
  const double distance = static_cast<double>(survey.chunk_maxima[chunk]) - origin;
  return survey.chunk_sums[chunk] * std::exp(distance * slope);
}

// Σ exp((logit − origin) · slope); NaN if a logit is NaN or +∞.
static inline double total_mass(const Survey& survey, float origin, float slope) {
  double total = 0;
  for (int64_t c = 0; c < chunks_of(survey.size); ++c) total += chunk_mass(survey, c, origin, slope);
  return total;
}

// log Σ exp(logits), from a survey of slope 1. Fails, naming the row, where there is no such number.
static inline double log_sum_exp(const Survey& survey, int64_t row) {
  const float max = largest(survey);
  const double total = total_mass(survey, max == -infinity ? 0 : max, 1);
  if (total > 0 && max < infinity) return max + std::log(total);
  for (int64_t v = 0; v < survey.size; ++v)
    if (!(survey.logits[v] < infinity))
      fail("invalid_argument", "row %lld: the logit of token %lld is %g; logits must be numbers below +inf",
           static_cast<long long>(row), static_cast<long long>(v), static_cast<double>(survey.logits[v]));
  fail("invalid_argument", "row %lld: every logit is -inf, so there are no probabilities", static_cast<long long>(row));
}

// 1 + how many logits are larger.
static inline int32_t rank_of(const Survey& survey, float logit) {
  alignas(64) float padded[logits_block];
  int32_t rank = 1;
  for (int64_t block = 0; block < blocks_of(survey.size); ++block) {
    if (!(survey.block_maxima[block] > logit)) continue;
    const float* x = block_of(survey, block, padded);
    for (int64_t i = 0; i < logits_block; i += lanes)
      rank += __builtin_popcount(above(load(x + i), splat(logit)));
  }
  return rank;
}

// The lowest id with this logit, which is the largest.
static inline int32_t first_with(const Survey& survey, float logit) {
  int64_t block = 0;
  while (survey.block_maxima[block] != logit) ++block;
  int64_t v = block * logits_block;
  while (survey.logits[v] != logit) ++v;
  return static_cast<int32_t>(v);
}

}  // namespace qwen2::cpu::QWEN2_SIMD
