// The most probable tokens of a row, found without sorting it: a list of candidates that is narrowed by counting them in
// buckets of their logits. Time grows as the candidates do.
#pragma once

#include "cpu/logits.h"

namespace qwen2::cpu::QWEN2_SIMD {

struct Candidates {
  int64_t count;
  float* logits;
  int32_t* ids;    // ascending
  float* weights;  // exp((logit − the row's maximum) · slope)
  float* rest_logits;  // room for what is left of a search
  float* rest_weights;

  static constexpr int64_t bytes(int64_t size) { return size * 5 * static_cast<int64_t>(sizeof(float)); }
};

// A list without candidates, over `bytes(size)` bytes of memory.
static inline Candidates candidates_in(void* memory, int64_t size) {
  float* at = static_cast<float*>(memory);
  return {0, at, reinterpret_cast<int32_t*>(at + size), at + 2 * size, at + 3 * size, at + 4 * size};
}

constexpr float lowest = -__FLT_MAX__;

// Lists the tokens whose logit is at least `floor`; −∞ never is.
static inline void collect(Candidates& list, const Survey& survey, float floor) {
  alignas(64) float padded[logits_block];
  floor = floor < lowest ? lowest : floor;
  list.count = 0;
  for (int64_t block = 0; block < blocks_of(survey.size); ++block) {
    if (!(survey.block_maxima[block] >= floor)) continue;
    const float* x = block_of(survey, block, padded);
    for (int i = 0; i < logits_block; i += lanes)
      for (uint32_t bits = at_least(load(x + i), splat(floor)); bits != 0; bits &= bits - 1) {
        const int at = i + __builtin_ctz(bits);
        list.logits[list.count] = x[at];
        list.ids[list.count++] = static_cast<int32_t>(block * logits_block + at);
      }
  }
}

static inline void weigh(Candidates& list, float origin, float slope) {
  const auto weight = [&](F32 x) { return exp(mul(sub(x, splat(origin)), splat(slope))); };
  int64_t i = 0;
  for (; i + lanes <= list.count; i += lanes) store(list.weights + i, weight(load(list.logits + i)));
  const int rest = static_cast<int>(list.count - i);
  if (rest > 0) store(list.weights + i, weight(load(list.logits + i, rest)), rest);
}

static inline double mass_of(const Candidates& list) {
  double mass = 0;
  for (int64_t i = 0; i < list.count; ++i) mass += list.weights[i];
  return mass;
}

// The end of the most probable ones: those above `logit`, and the first `ties` of those that equal it.
struct Cut {
  float logit;
  int64_t ties;
};

constexpr int cut_buckets = 1024;

// Of equal parts of [low, high], from high down, the one a logit lies in.
struct Buckets {
  double high, scale;

  Buckets(float low, float high_logit) : high(high_logit), scale(cut_buckets / (high - low)) {}
  int operator()(float logit) const {
    const double bucket = (high - logit) * scale;
    return bucket < cut_buckets ? static_cast<int>(bucket) : cut_buckets - 1;
  }
};

// Finds the smallest set of the most probable of `count` (of equal ones, those listed first) that has `wanted` members or
// the mass `wanted_mass`; without weights, members alone count. Overwrites `rest`, which may be the arrays themselves.
//
// Each round counts all in buckets, then goes on with the bucket in which the set ends. The lowest and the highest are
// never in one bucket, so every round narrows the range, about a thousandfold, until all that is left is equal.
static inline Cut find_cut(const float* logits, const float* weights, int64_t count, int64_t wanted, double wanted_mass,
                    float* rest_logits, float* rest_weights) {
  int64_t reached = 0;
  double reached_mass = 0;
  for (;;) {
    float low = logits[0], high = logits[0];
    for (int64_t i = 1; i < count; ++i) {
      low = logits[i] < low ? logits[i] : low;
      high = logits[i] > high ? logits[i] : high;
    }
    if (low == high) {
      int64_t ties = wanted - reached < count ? wanted - reached : count;
      if (weights != nullptr) {
        const double needed = std::ceil((wanted_mass - reached_mass) / weights[0]);
        if (needed < static_cast<double>(ties)) ties = needed > 1 ? static_cast<int64_t>(needed) : 1;
      }
      return {low, ties};
    }
    const Buckets bucket_of(low, high);
    int64_t members[cut_buckets] = {};
    double masses[cut_buckets] = {};
    for (int64_t i = 0; i < count; ++i) {
      const int bucket = bucket_of(logits[i]);
      ++members[bucket];
      if (weights != nullptr) masses[bucket] += weights[i];
    }
    int last = 0;
    for (; last < cut_buckets - 1; ++last) {
      if (reached + members[last] >= wanted) break;
      if (weights != nullptr && reached_mass + masses[last] >= wanted_mass) break;
      reached += members[last];
      reached_mass += masses[last];
    }
    int64_t left = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (bucket_of(logits[i]) != last) continue;
      if (weights != nullptr) rest_weights[left] = weights[i];
      rest_logits[left++] = logits[i];
    }
    logits = rest_logits;
    if (weights != nullptr) weights = rest_weights;
    count = left;
  }
}

// Keeps what a cut leaves, in the order of ids.
static inline void keep(Candidates& list, Cut cut) {
  int64_t kept = 0;
  for (int64_t i = 0; i < list.count; ++i) {
    const float logit = list.logits[i];
    if (logit < cut.logit || (logit == cut.logit && cut.ties-- <= 0)) continue;
    list.logits[kept] = logit;
    list.ids[kept] = list.ids[i];
    list.weights[kept++] = list.weights[i];
  }
  list.count = kept;
}

// A logit that at least `wanted` tokens reach, and not many more: the maxima of blocks are distinct tokens. Uses the
// list's memory.
static inline float floor_of_top(Candidates& list, const Survey& survey, int64_t wanted) {
  int64_t count = 0;
  for (int64_t block = 0; block < blocks_of(survey.size); ++block)
    if (survey.block_maxima[block] >= lowest) list.rest_logits[count++] = survey.block_maxima[block];
  if (count < wanted) return lowest;
  return find_cut(list.rest_logits, nullptr, count, wanted, 0, list.rest_logits, nullptr).logit;
}

// Lists the `wanted` most probable tokens, or all that are above −∞ where they are fewer.
static inline void collect_top(Candidates& list, const Survey& survey, int64_t wanted) {
  collect(list, survey, floor_of_top(list, survey, wanted));
  if (list.count <= wanted) return;
  keep(list, find_cut(list.logits, nullptr, list.count, wanted, 0, list.rest_logits, nullptr));
}

// Whether candidate a stands before b.
static inline bool more_probable(const Candidates& list, int64_t a, int64_t b) {
  return list.logits[a] != list.logits[b] ? list.logits[a] > list.logits[b] : list.ids[a] < list.ids[b];
}

// Sorts by probability, most probable first, of equal ones the lower id: a heap sort, whose root is the least probable.
static inline void sort_by_probability(Candidates& list) {
  const auto swap = [&](int64_t a, int64_t b) {
    const float logit = list.logits[a];
    const int32_t id = list.ids[a];
    list.logits[a] = list.logits[b];
    list.ids[a] = list.ids[b];
    list.logits[b] = logit;
    list.ids[b] = id;
  };
  const auto sift_down = [&](int64_t parent, int64_t size) {
    for (int64_t child; (child = 2 * parent + 1) < size; parent = child) {
      if (child + 1 < size && more_probable(list, child, child + 1)) ++child;
      if (!more_probable(list, parent, child)) return;
      swap(parent, child);
    }
  };
  for (int64_t i = list.count / 2; i-- > 0;) sift_down(i, list.count);
  for (int64_t size = list.count; size-- > 1;) {
    swap(0, size);
    sift_down(0, size);
  }
}

// Writes the `wanted` most probable tokens and their log-probabilities; of equal logits the lower id comes first.
static inline void write_top(Candidates& list, const Survey& survey, double log_sum, int64_t wanted, int32_t* ids,
                      float* logprobs) {
  collect_top(list, survey, wanted);
  sort_by_probability(list);
  int64_t written = 0;
  for (; written < list.count; ++written) {
    ids[written] = list.ids[written];
    logprobs[written] = static_cast<float>(list.logits[written] - log_sum);
  }
  for (int64_t v = 0; written < wanted; ++v) {
    if (survey.logits[v] != -infinity) continue;
    ids[written] = static_cast<int32_t>(v);
    logprobs[written++] = -infinity;
  }
}

}  // namespace qwen2::cpu::QWEN2_SIMD
