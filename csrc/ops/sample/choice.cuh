// Step 4 of `sample`: a row's token, chosen by one block.
#pragma once

#include "ops/sample/adjusted.cuh"
#include "ops/sample/philox.h"

namespace qwen2::cuda {

// What the choice is made from.
struct Choice {
  const Job& job;
  const AdjustedLogits& logits;
  Survey survey;  // after steps 2 and 3
  int64_t chunks;
  Codes codes;
  float max;
  Weigher weigh;  // relative to the largest logit
  Mass total;     // of the vocabulary, where the survey has sums
};

// ⌊u · mass⌋: the first token at which the cumulative mass exceeds it is the one.
__device__ inline Mass goal_of(const SampleRow& row, Mass mass) {
  const Wide word = sample_word(row.seed_low, row.seed_high, row.token_index, row.choice_index);
  return (mass >> 32) * word + ((mass & 0xFFFFFFFFu) * word >> 32);
}

// The mass that top-p is to reach, at least that of one token. One product in double a thread.
__device__ inline Mass wanted_mass(const SampleRow& row, Mass mass) {
  const Mass wanted = static_cast<Mass>(ceil(static_cast<double>(row.top_p) * static_cast<double>(mass)));
  return wanted > 0 ? wanted : 1;
}

__device__ inline int32_t found_token(const Choice& choice) {
  __syncthreads();
  return choice.codes.id(shared<RowShared>().found);
}

// The largest, of equal ones the lowest id.
__device__ inline int32_t most_probable(const Choice& choice) {
  const Candidates<AdjustedLogits> candidates{choice.logits, choice.codes,
                                              list_blocks(choice.survey, choice.chunks, key_of(choice.max))};
  Code best = 0;
  candidates.each([&](Code code, float) { best = code > best ? code : best; });
  return choice.codes.id(block_max(best, shared<RowShared>().scan));
}

// The first of the candidates of at least `low`, in the order of ids, at which the cumulative mass exceeds `goal`;
// together they exceed it.
__device__ inline int32_t draw(const Choice& choice, const Candidates<AdjustedLogits>& candidates, const Weigher& weigh,
                               Code low, Mass goal) {
  RowShared& s = shared<RowShared>();
  Mass reached = 0;
  candidates.each_tile([&](const PartLogits& x, int64_t first) {
    const auto mass = [&](int i) {
      const float logit = x[i / 4][i % 4];
      return choice.codes.of(logit, first + i) >= low ? weigh(logit) : Mass{0};
    };
    Mass own = 0;
    for (int i = 0; i < part_ids; ++i) own += mass(i);
    const Scan scan = block_scan(own, s.scan);
    Mass at = reached + scan.before;
    if (at <= goal && goal < at + own)
      for (int i = 0; i < part_ids; ++i) {
        const Mass next = at + mass(i);
        if (at <= goal && goal < next) s.found = choice.codes.of(x[i / 4][i % 4], first + i);
        at = next;
      }
    reached += scan.total;
    return reached <= goal;
  });
  return found_token(choice);
}

__device__ inline Mass mass_of(const Candidates<AdjustedLogits>& candidates, const Weigher& weigh, Code low) {
  Mass mass = 0;
  candidates.each([&](Code code, float logit) { mass += code >= low ? weigh(logit) : 0; });
  return block_scan(mass, shared<RowShared>().scan).total;
}

// Draws from all tokens: the chunk by the chunks' sums, then within the chunk, whose masses are weighed anew, relative
// to its own maximum.
__device__ inline int32_t draw_from_all(const Choice& choice) {
  RowShared& s = shared<RowShared>();
  const Mass goal = goal_of(choice.job.row, choice.total);
  Mass reached = 0;
  for (int64_t start = 0; start < choice.chunks && reached <= goal; start += blockDim.x) {
    const int64_t chunk = start + threadIdx.x;
    const Mass own = chunk < choice.chunks ? choice.weigh(choice.survey, chunk) : 0;
    const Scan scan = block_scan(own, s.scan);
    const Mass at = reached + scan.before;
    if (at <= goal && goal < at + own) {
      s.found = static_cast<Code>(chunk);
      s.part = static_cast<double>(goal - at) / static_cast<double>(own);
    }
    reached += scan.total;
  }
  __syncthreads();
  const int64_t chunk = static_cast<int64_t>(s.found);
  const double part = s.part;
  const Weigher weigh{choice.survey.chunk_maxima[chunk], choice.weigh.steepness};
  const Candidates<AdjustedLogits> candidates{choice.logits, choice.codes, list_chunk(chunk)};
  const Code low = choice.codes.floor(lowest_key);
  const Mass mass = mass_of(candidates, weigh, low);
  const Mass place = static_cast<Mass>(part * static_cast<double>(mass));
  return draw(choice, candidates, weigh, low, place < mass ? place : mass - 1);
}

// The smallest float at or above x.
__device__ inline float round_up(double x) {
  const float rounded = static_cast<float>(x);
  return rounded < x ? nextafterf(rounded, infinity) : rounded;
}

// A key that one thread computes, in double, for all.
template <typename Logit>
__device__ uint32_t key_by_one_thread(const Logit& logit) {
  RowShared& s = shared<RowShared>();
  __syncthreads();
  if (threadIdx.x == 0) s.found = key_of(logit());
  __syncthreads();
  const uint32_t key = static_cast<uint32_t>(s.found);
  return key > lowest_key ? key : lowest_key;
}

// A key that all tokens of the answer reach: whatever is below is cut by min-p, top-k or top-p alike.
__device__ inline uint32_t candidate_floor(const Choice& choice) {
  const SampleRow& row = choice.job.row;
  const float max = choice.max;
  if (!choice.job.narrows) {
    // Where the blocks' maxima alone have the mass, what is below them is not needed.
    constexpr unsigned slack = 16;
    const BlockMaxima maxima{choice.survey, choice.chunks, choice.codes};
    const Edge edge = find_edge(maxima, Measure::mass(choice.weigh), maxima.lowest(), choice.codes.ceiling(max),
                                wanted_mass(row, choice.total), slack);
    if (edge.exists) return choice.codes.key(edge.low);
    return key_by_one_thread([&] {
      // V tokens of this weight together would not fill what top-p leaves out. Half of it, to be clear of roundings.
      const double total = static_cast<double>(choice.total) * 0x1p-40;
      const double weight = 0.5 * (1.0 - row.top_p) * total / static_cast<double>(choice.logits.raw.size);
      return static_cast<float>(max + log(weight) * row.temperature);
    });
  }
  uint32_t floor = lowest_key;
  if (row.min_p > 0)
    floor = key_by_one_thread([&] { return round_up(max + log(static_cast<double>(row.min_p)) * row.temperature); });
  if (row.top_k > 0) {
    const uint32_t top = floor_of_top(choice.survey, choice.chunks, choice.codes, max, row.top_k);
    floor = top > floor ? top : floor;
  }
  return floor;
}

// Top-k, top-p and the draw among candidates that are gathered, one a thread: each is compared with each.
__device__ inline int32_t choose_from_few(const Choice& choice, int count) {
  RowShared& s = shared<RowShared>();
  const SampleRow& row = choice.job.row;
  const int i = static_cast<int>(threadIdx.x);
  const Code code = i < count ? s.few[i] : 0;
  const Mass mass = i < count ? choice.weigh(choice.codes.logit(code)) : 0;
  if (i < count) s.few_masses[i] = mass;
  __syncthreads();
  int rank = 0;
  Mass before = 0;  // of those that are more probable
  if (i < count)
    for (int j = 0; j < count; ++j) {
      const bool more = s.few[j] > code;
      rank += more;
      before += more ? s.few_masses[j] : 0;
    }
  bool kept = i < count && (row.top_k == 0 || rank < row.top_k);
  if (row.top_p < 1) {
    const Mass all = choice.job.narrows ? block_scan(kept ? mass : 0, s.scan).total : choice.total;
    kept = kept && before < wanted_mass(row, all);
  }
  const Scan scan = block_scan(kept ? mass : 0, s.scan);
  const Mass goal = goal_of(row, scan.total);
  if (kept && scan.before <= goal && goal < scan.before + mass) s.found = code;
  return found_token(choice);
}

// The same of any number.
__device__ inline int32_t choose_from_many(const Choice& choice, const Candidates<AdjustedLogits>& candidates,
                                           Code low) {
  const SampleRow& row = choice.job.row;
  const Code high = choice.codes.ceiling(choice.max);
  if (row.top_k > 0) low = find_edge(candidates, Measure::count(), low, high, static_cast<Mass>(row.top_k), 1).low;
  if (row.top_p < 1) {
    const Mass all = choice.job.narrows ? mass_of(candidates, choice.weigh, low) : choice.total;
    low = find_edge(candidates, Measure::mass(choice.weigh), low, high, wanted_mass(row, all), 1).low;
  }
  const Mass mass = mass_of(candidates, choice.weigh, low);
  return draw(choice, candidates, choice.weigh, low, goal_of(row, mass));
}

__device__ inline int32_t choose(const Choice& choice) {
  if (!choice.job.draws) return most_probable(choice);
  if (choice.job.row.top_p == 1 && !choice.job.narrows) return draw_from_all(choice);
  const uint32_t floor = candidate_floor(choice);
  const Candidates<AdjustedLogits> candidates{choice.logits, choice.codes,
                                              list_blocks(choice.survey, choice.chunks, floor)};
  const Code low = choice.codes.floor(floor);
  const int count = gather_few(candidates, low, ~Code{0});
  return count <= few_limit() ? choose_from_few(choice, count) : choose_from_many(choice, candidates, low);
}

}  // namespace qwen2::cuda
