// A step as the kernels of attention see it: its tensors, its sequences read and checked, and where they stand in a
// line of work.
#pragma once

#include "cuda/elementwise.h"
#include "cuda/kv_elements.h"
#include "cuda/reduce.h"
#include "cuda/shared.h"
#include "ops/attention/plan.h"

namespace qwen2::cuda {

constexpr int attention_threads = 128;

// In the words of sequences.h.
struct StepErrors {
  ErrorSlot ends, falls, short_context, long_context, outside;
};

struct Step {
  Rows<const bf16> q;              // [T, Hq·D]
  Rows<bf16> out;                  // [T, Hq·D]
  const char* cache;               // [cache_blocks], block_stride bytes apart
  const int32_t* block_tables;     // [B, table_blocks], rows table_stride elements apart
  const int32_t* query_starts;     // [B + 1]
  const int32_t* context_lengths;  // [B]
  int64_t cache_blocks, block_stride, table_blocks, table_stride;
  KvBlock block;
  int tokens, sequences, kv_heads, group, window;
  float scale;                  // of scores as powers of two: scale · log2 e
  bool q_vectors, out_pairs;  // rows of q can be read 16 bytes at a time, those of out written 4
  StepErrors errors;

  // Head `row % group` of the token that a sequence's packed row belongs to.
  __device__ const bf16* query(const Sequence& s, int kv_head, int row) const {
    return q.row(s.first_query + row / group) + (kv_head * group + row % group) * block.head_dim;
  }
  __device__ bf16* output(const Sequence& s, int kv_head, int row) const {
    return out.row(s.first_query + row / group) + (kv_head * group + row % group) * block.head_dim;
  }
};

// Two neighbours of a row of out.
__device__ inline void store_pair(const Step& step, bf16* to, float low, float high) {
  if (step.out_pairs) {
    *reinterpret_cast<uint32_t*>(to) = cvt_bf16x2(low, high);
  } else {
    store_float(to, low);
    store_float(to + 1, high);
  }
}

// The sequence, or one without queries if its numbers are not to be trusted.
__device__ inline Sequence read_sequence(const Step& step, int b) {
  const int begin = step.query_starts[b], end = step.query_starts[b + 1], context = step.context_lengths[b];
  const bool queries = 0 <= begin && begin <= end && end <= step.tokens;
  const bool keys = context == 0 || (context >= end - begin && context <= step.table_blocks * step.block.block_size);
  return queries && keys ? Sequence{begin, end - begin, context} : Sequence{0, 0, 0};
}

// Reports what read_sequence refuses: the job of one block.
template <int threads>
__device__ inline void check_step(const Step& step) {
  const int first = step.query_starts[0], last = step.query_starts[step.sequences];
  if (threadIdx.x == 0 && (first != 0 || last != step.tokens)) report(step.errors.ends, step.tokens, first, last);
  for (int b = threadIdx.x; b < step.sequences; b += threads) {
    const int64_t queries = int64_t{step.query_starts[b + 1]} - step.query_starts[b];
    const int64_t context = step.context_lengths[b], used = ceil_div(context, step.block.block_size);
    if (queries < 0) {
      report(step.errors.falls, b);
    } else if (context == 0) {
      continue;
    } else if (context < queries) {
      report(step.errors.short_context, b, context, queries);
    } else if (used > step.table_blocks) {
      report(step.errors.long_context, b, context, used, static_cast<double>(step.table_blocks));
    }
  }
}

// The block of the cache that has 16 keys from position `first` on, as its table says.
__device__ inline int32_t look_up(const Step& step, int b, int first) {
  return step.block_tables[b * step.table_stride + first / static_cast<int>(step.block.block_size)];
}

// Where keys of a head begin in the cache: which block, and which of its vectors.
struct Place {
  int32_t block;
  int vector;
  __device__ bool exists() const { return block >= 0; }
  __device__ const char* in(const Step& step) const { return step.cache + block * step.block_stride; }
};

constexpr Place nowhere{-1, 0};

__device__ inline Place place_of(const Step& step, int32_t id, int b, int kv_head, int first) {
  const int size = static_cast<int>(step.block.block_size);
  if (id < 0 || id >= step.cache_blocks) {
    report(step.errors.outside, b, first / size, id, static_cast<double>(step.cache_blocks));
    return nowhere;
  }
  return {id, static_cast<int>(step.block.key(kv_head, first % size))};
}

// Sequences stand in a line, each with a length: the one that has a place, and what is in front of it.
struct Spot {
  int sequence;
  int64_t before, total;
};

struct LineShared {
  int64_t warps[32];  // as many as a block can have
  Spot spot;
};

__device__ inline int64_t warp_inclusive_scan(int64_t x) {
  for (int lanes = 1; lanes < warp_size; lanes *= 2) {
    const int64_t below = __shfl_up_sync(full_warp, x, lanes);
    if (lane_index() >= lanes) x += below;
  }
  return x;
}

// Of the place that `choose` wants when it is told the line's length; sequence −1 if that is beyond. All threads of the
// block ask together: each adds up some neighbours, and one of them finds the place among its own.
template <int threads, typename Length, typename Choose>
__device__ inline Spot find_in_line(int sequences, LineShared& s, const Length& length, const Choose& choose) {
  const int each = ceil_div(sequences, threads), first = static_cast<int>(threadIdx.x) * each;
  const int end = min(first + each, sequences);
  int64_t own = 0;
  for (int b = first; b < end; ++b) own += length(b);
  const int64_t in_warp = warp_inclusive_scan(own);
  if (lane_index() == warp_size - 1) s.warps[warp_index()] = in_warp;
  __syncthreads();
  int64_t before = in_warp - own, total = 0;
  for (int w = 0; w < threads / warp_size; ++w) {
    if (w < warp_index()) before += s.warps[w];
    total += s.warps[w];
  }
  const int64_t place = choose(total);
  if (place < 0 || place >= total) return {-1, total, total};
  if (before <= place && place < before + own) {
    int b = first;
    for (int64_t part = length(b); place >= before + part; part = length(b)) {
      before += part;
      ++b;
    }
    s.spot = {b, before, total};
  }
  __syncthreads();
  return s.spot;
}

}  // namespace qwen2::cuda
