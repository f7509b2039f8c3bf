// One pass over rows of logits, a warp a chunk of a row, and what can be told from it afterwards: the log of the sum of
// exponentials, and where the largest are. Shared by sample and token_logprobs.
//
// A warp holds its chunk in registers: eight loads of 16 bytes a lane are in flight at once (4 KB a warp, 128 KB a
// multiprocessor that holds 32 warps), then maxima and sums cost no memory. Bound by the memory's bandwidth.
// Sums of exponentials are fp32 within a chunk, in an order that depends on nothing but the chunk; across chunks they
// are integers, whose order does not matter.
#pragma once

#include "core/tensor.h"
#include "cuda/bf16.h"
#include "cuda/context.h"
#include "cuda/scan.h"

namespace qwen2::cuda {

constexpr int logits_chunk = 1024;  // ids that are summed apart
constexpr int logits_block = 64;    // ids that share a maximum
constexpr int chunk_blocks = logits_chunk / logits_block;
constexpr int survey_threads = 128;
constexpr int survey_chunks = survey_threads / warp_size;  // a block's
constexpr float infinity = __builtin_inff();

constexpr int64_t chunks_of(int64_t size) { return (size + logits_chunk - 1) / logits_chunk; }

// --- Four logits at a time -------------------------------------------------------------------------------------------

// Whether rows of 32-bit elements begin where 16 bytes can be loaded.
inline bool quads_aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && (t.shape[0] <= 1 || t.strides[0] % 4 == 0);
}

// x[q] = elements first + q · step … + 3 of a row of `size`; `beyond` where there are none. `first` is a multiple of 4.
// `once`: they will not be read again soon.
template <bool once, int step, int quads, typename T>
__device__ inline void load_quads(T (&x)[quads][4], const T* row, int64_t first, int64_t size, bool aligned, T beyond) {
  static_assert(sizeof(T) == 4);
  if (aligned && first + (quads - 1) * step + 4 <= size) {
    uint4 words[quads];
    for (int q = 0; q < quads; ++q) {
      const T* from = row + first + q * step;
      words[q] = once ? load_streaming(from) : *reinterpret_cast<const uint4*>(from);
    }
    for (int q = 0; q < quads; ++q) {
      x[q][0] = std::bit_cast<T>(words[q].x);
      x[q][1] = std::bit_cast<T>(words[q].y);
      x[q][2] = std::bit_cast<T>(words[q].z);
      x[q][3] = std::bit_cast<T>(words[q].w);
    }
    return;
  }
  for (int q = 0; q < quads; ++q)
    for (int i = 0; i < 4; ++i) {
      const int64_t v = first + q * step + i;
      x[q][i] = v < size ? row[v] : beyond;
    }
}

// --- The survey of a row ---------------------------------------------------------------------------------------------

struct Survey {
  float* block_maxima;  // [chunks · 16], −∞ where the last chunk has fewer blocks
  float* chunk_maxima;  // [chunks]
  float* chunk_sums;    // [chunks], each Σ exp((logit − the chunk's maximum) · slope)
};

// The surveys of all rows.
struct Surveys {
  float* memory;  // [rows, floats(chunks)]
  int64_t chunks;

  // A multiple of 16 bytes.
  static constexpr int64_t floats(int64_t chunks) { return (chunks * (chunk_blocks + 2) + 3) / 4 * 4; }
  __device__ Survey row(int64_t b) const {
    float* blocks = memory + b * floats(chunks);
    return {blocks, blocks + chunks * chunk_blocks, blocks + chunks * (chunk_blocks + 1)};
  }
};

// slope · log₂e, finite, so that 0 · steepness is 0.
__device__ inline float steepness_of(float slope) {
  constexpr float log2_e = 1.44269504f, steepest = __FLT_MAX__;
  const float steepness = slope * log2_e;
  return steepness < steepest ? steepness : steepest;
}

// exp((x − origin) · slope)
__device__ inline float weight_of(float x, float origin, float steepness) {
  return ex2_approx((x - origin) * steepness);
}

// A chunk in the registers of a warp: lane l has ids 4l … 4l + 3 of each 128.
constexpr int chunk_quads = logits_chunk / (4 * warp_size);
constexpr int quad_step = 4 * warp_size;
using ChunkLogits = float[chunk_quads][4];

// Returns the chunk's maximum. NaN is passed over here, and makes the sum NaN.
__device__ inline float find_maxima(const ChunkLogits& x, const Survey& survey, int64_t chunk) {
  constexpr int half_warp = warp_size / 2;  // that shares a block of each 128 ids
  const int place = lane_index() % half_warp;
  float own = -infinity;
  for (int q = 0; q < chunk_quads; ++q) {
    float max = fmaxf(fmaxf(x[q][0], x[q][1]), fmaxf(x[q][2], x[q][3]));
    for (int lanes = half_warp / 2; lanes > 0; lanes /= 2) max = fmaxf(max, __shfl_xor_sync(full_warp, max, lanes));
    own = place == q ? fmaxf(max, own) : own;
  }
  if (place < chunk_quads)
    survey.block_maxima[chunk * chunk_blocks + 2 * place + lane_index() / half_warp] = own;
  const float max = warp_max(own);
  if (lane_index() == 0) survey.chunk_maxima[chunk] = max;
  return max;
}

// A NaN or +∞ among the logits makes the sum NaN.
__device__ inline void sum_exponentials(const ChunkLogits& x, const Survey& survey, int64_t chunk, float max,
                                        float steepness) {
  const float origin = max == -infinity ? 0 : max;
  float sums[4] = {};
  for (int q = 0; q < chunk_quads; ++q)
    for (int i = 0; i < 4; ++i) sums[i] += weight_of(x[q][i], origin, steepness);
  const float sum = warp_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (lane_index() == 0) survey.chunk_sums[chunk] = sum;
}

// Where a warp of a survey's grid is: blocks of `survey_chunks` chunks, row after row.
struct SurveyPlace {
  int64_t row, chunk;
};
inline unsigned survey_blocks(int64_t rows, int64_t chunks) {
  return static_cast<unsigned>(rows * ((chunks + survey_chunks - 1) / survey_chunks));
}
__device__ inline SurveyPlace survey_place(int64_t chunks) {
  const int64_t groups = (chunks + survey_chunks - 1) / survey_chunks;
  return {blockIdx.x / groups, blockIdx.x % groups * survey_chunks + warp_index()};
}

// --- What a survey says ----------------------------------------------------------------------------------------------

// Exponentials relative to that of the row's maximum, as integers: 2⁴⁰ is 1. A row's mass is at least 2⁴⁰ and at most
// V · 2⁴⁰, so sums of up to 2²³ of them are exact.
using Mass = Wide;
constexpr float one_mass = 0x1p40f;

struct Weigher {
  float origin, steepness;
  __device__ Mass operator()(float x) const { return static_cast<Mass>(weight_of(x, origin, steepness) * one_mass); }
  // Of a chunk whose sum is relative to its own maximum.
  __device__ Mass operator()(const Survey& survey, int64_t chunk) const {
    return static_cast<Mass>(survey.chunk_sums[chunk] * weight_of(survey.chunk_maxima[chunk], origin, steepness) *
                             one_mass);
  }
};

// Floats in their order as unsigned integers; both zeros are one.
__device__ inline uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline float float_of(uint32_t key) {
  return __uint_as_float(key >> 31 ? key & 0x7FFFFFFFu : ~key);
}

// The largest logit; +∞ if a logit is +∞ or, where the survey has sums, NaN. All threads of a block call it.
__device__ inline float largest(const Survey& survey, int64_t chunks, bool has_sums, ScanShared& shared) {
  uint32_t max = 0;
  for (int64_t c = threadIdx.x; c < chunks; c += blockDim.x) {
    const float chunk_max = survey.chunk_maxima[c];
    const uint32_t key = key_of(has_sums && !(survey.chunk_sums[c] >= 0) ? infinity : chunk_max);
    max = key > max ? key : max;
  }
  return float_of(static_cast<uint32_t>(block_max(max, shared)));
}

__device__ inline Mass total_mass(const Survey& survey, int64_t chunks, const Weigher& weigh, ScanShared& shared) {
  Mass mass = 0;
  for (int64_t c = threadIdx.x; c < chunks; c += blockDim.x) mass += weigh(survey, c);
  return block_scan(mass, shared).total;
}

// log Σ exp(logits), for one thread to compute: in double, which is slow on most GPUs, because log-probabilities are to
// be right to 2⁻²³ of theirs.
__device__ inline double log_of_mass(float max, Mass total) { return max + log(static_cast<double>(total) * 0x1p-40); }

struct LogitErrors {
  ErrorSlot logit, no_probabilities;
  explicit LogitErrors(Context& context)
      : logit(context.errors("row %lld: the logit of token %lld is %g; logits must be numbers below +inf")),
        no_probabilities(context.errors("row %lld: every logit is -inf, so there are no probabilities")) {}
};

// Reports why a row whose maximum is infinite has no log-probabilities. All threads of a block call it.
__device__ inline void report_logits(const LogitErrors& errors, int64_t b, const float* logits, int64_t size, float max,
                                     ScanShared& shared) {
  if (max == -infinity) {
    if (threadIdx.x == 0) report(errors.no_probabilities, b);
    return;
  }
  Wide left = 0;  // from the first of them on
  for (int64_t v = threadIdx.x; v < size && left == 0; v += blockDim.x)
    if (!(logits[v] < infinity)) left = static_cast<Wide>(size - v);
  const int64_t first = size - static_cast<int64_t>(block_max(left, shared));
  if (threadIdx.x == 0) report(errors.logit, b, first, 0, logits[first]);
}

}  // namespace qwen2::cuda
