// Batch-invariant attention: a row's bits depend on its query and its keys, not on what else the step has.
//
// Tiles of 64 packed rows, as in prefill, for one query too. A row's keys are reduced in chunks of 512 at absolute positions,
// each from nothing: a maximum, a sum and weighted values, relative to 2^(scale · maximum). Chunks are merged in their order,
// by one piece of arithmetic, whoever does it:
//   walking    a block has a tile and walks its chunks, with what they gave so far in registers
//   splitting  where tiles are too few to fill the device, a block takes chunks of tiles and leaves what each gives a row in
//              the workspace; a second launch merges them, a warp a row
// A chunk, or a range, of which a row sees nothing leaves it exactly as it was: weights are then 1 and 0, probabilities 0.
//
// What it costs beside the other kernels: a decode step multiplies 64 rows where it has a group of heads. With a range of 64
// keys in 16 KB (D = 64) or 32 KB (D = 128), that is about as long as its bytes take to arrive.
#pragma once

#include "ops/attention/prefill.cuh"

namespace qwen2::cuda {

struct MergeWeights {
  float total, chunk;
};

// One fma, spelled out, so that no compiler chooses which of the products is rounded.
__device__ inline float merged(float total, float chunk, const MergeWeights& weights) {
  return fmaf(chunk, weights.chunk, total * weights.total);
}

// Takes a chunk's maximum and sum into those of all chunks before it.
__device__ inline MergeWeights merge_sums(float& maximum, float& sum, float chunk_max, float chunk_sum, float scale) {
  const float both = fmaxf(maximum, chunk_max);
  const MergeWeights weights{weight_of(maximum, both, scale), weight_of(chunk_max, both, scale)};
  maximum = both;
  sum = merged(sum, chunk_sum, weights);
  return weights;
}

// What a chunk gives a row.
template <int D>
struct RowPiece {
  float values[D];
  float max, sum;
};

// Of all rows of the step: [tokens][Hq][chunks].
template <int D>
struct RowPieces {
  RowPiece<D>* pieces;
  int chunks;
  // Of a sequence's packed row.
  __device__ RowPiece<D>& at(const Step& step, const Sequence& s, int kv_head, int row, int chunk) const {
    const int64_t token = s.first_query + row / step.group, heads = int64_t{step.kv_heads} * step.group;
    return pieces[(token * heads + kv_head * step.group + row % step.group) * chunks + chunk];
  }
};

template <typename E, int D, int slots>
using InvariantShared = PrefillShared<E, D, 1, slots>;

// Walks the tile's ranges and calls leave(chunk, values, running) with what each chunk of them gives the warp's rows.
template <typename E, int D, int slots, typename Leave>
__device__ inline void attend_chunks(const Step& step, InvariantShared<E, D, slots>& s, const Leave& leave) {
  const PrefillTile& t = s.tile;
  const PrefillStream<E, D, 1, slots> stream{step, s};
  float values[1][D / 8][4] = {};
  RunningRows running[1];
  stream.begin();
  for (int range = 0; range < t.ranges; ++range) {
    attend_tile_range<true>(stream, range, values, running);
    const int next = t.first_range + range + 1;
    if (next % chunk_ranges != 0 && range + 1 < t.ranges) continue;
    leave((next - 1) / chunk_ranges, values[0], running[0]);
    running[0] = {};
#pragma unroll
    for (int j = 0; j < D / 8; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c) values[0][j][c] = 0;
  }
  cp_async_wait<0>();
}

// A block a tile and KV head.
template <typename E, int D, int slots>
__global__ void __launch_bounds__(attention_threads, 2) walking_kernel(Step step) {
  griddepcontrol_wait();
  auto& s = shared<InvariantShared<E, D, slots>>();
  // The last block hardly ever has a tile.
  if (blockIdx.x == gridDim.x - 1) check_step<attention_threads>(step);
  if (!find_tile<invariant_rows>(step, s.line, s.tile)) return;
  float totals[D / 8][4] = {};
  RunningRows all;
  attend_chunks<E, D, slots>(step, s, [&](int, const float (&values)[D / 8][4], const RunningRows& chunk) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const MergeWeights weights =
          merge_sums(all.max[i], all.sum[i], chunk.max[i], sum_of_row(chunk.sum[i]), step.scale);
#pragma unroll
      for (int j = 0; j < D / 8; ++j)
#pragma unroll
        for (int c = 2 * i; c < 2 * i + 2; ++c) totals[j][c] = merged(totals[j][c], values[j][c], weights);
    }
  });
  store_rows<D>(step, s.tile, warp_index() * 16, totals, all.sum);
}

// Items are chunks of tiles, in one line; a block takes every gridDim.x-th.
template <typename E, int D, int slots>
__global__ void __launch_bounds__(attention_threads, 2) splitting_kernel(Step step, RowPieces<D> pieces) {
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();
  auto& s = shared<InvariantShared<E, D, slots>>();
  const auto work_of = [&](int b) { return chunk_work(read_sequence(step, b), step.group, step.window); };
  for (int64_t item = blockIdx.x;; item += gridDim.x) {
    const Spot spot = find_in_line<attention_threads>(
        step.sequences, s.line, [&](int b) { return work_of(b).length(step.kv_heads); },
        [item](int64_t) { return item; });
    if (spot.sequence < 0) return;
    if (threadIdx.x == 0) {
      const ChunkWork work = work_of(spot.sequence);
      const int within = static_cast<int>(item - spot.before), tile = within / work.chunks;
      s.tile = prefill_tile(step, spot, spot.before + tile / step.kv_heads, tile % step.kv_heads, invariant_rows);
      const Keys ranges = ranges_of_chunk(s.tile.any, work.first_chunk + within % work.chunks);
      s.tile.first_range = ranges.begin;
      s.tile.ranges = ranges.end - ranges.begin;
    }
    __syncthreads();
    attend_chunks<E, D, slots>(step, s, [&](int chunk, const float (&values)[D / 8][4], const RunningRows& running) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float sum = sum_of_row(running.sum[i]);
        const int row = warp_index() * 16 + lane_index() / 4 + 8 * i;
        if (row >= s.tile.rows.count) continue;
        RowPiece<D>& piece = pieces.at(step, s.tile.sequence, s.tile.kv_head, s.tile.rows.first + row, chunk);
        float2* const to = reinterpret_cast<float2*>(piece.values) + lane_index() % 4;
#pragma unroll
        for (int j = 0; j < D / 8; ++j) to[4 * j] = make_float2(values[j][2 * i], values[j][2 * i + 1]);
        if (lane_index() % 4 != 0) continue;
        piece.max = running.max[i];
        piece.sum = sum;
      }
    });
  }
}

constexpr int merging_threads = 8 * warp_size;

struct MergingShared {
  LineShared line;
};

// A row's pieces, by a warp; of a pair of columns lane l has those from 2l on, and from 64 columns on.
template <int D>
__device__ inline void merge_row(const Step& step, const RowPieces<D>& pieces, const Sequence& s, int kv_head, int row) {
  constexpr int pairs = D / 2 / warp_size;
  const Keys keys = keys_of_token(s, row / step.group, step.window);
  float2 totals[pairs] = {};
  float maximum = minus_infinity, sum = 0;
#pragma unroll 4
  for (int chunk = keys.begin / chunk_keys; chunk < ceil_div(keys.end, chunk_keys); ++chunk) {
    const RowPiece<D>& piece = pieces.at(step, s, kv_head, row, chunk);
    const MergeWeights weights = merge_sums(maximum, sum, piece.max, piece.sum, step.scale);
#pragma unroll
    for (int i = 0; i < pairs; ++i) {
      const float2 values = reinterpret_cast<const float2*>(piece.values)[lane_index() + warp_size * i];
      totals[i].x = merged(totals[i].x, values.x, weights);
      totals[i].y = merged(totals[i].y, values.y, weights);
    }
  }
  const float inverse = inverse_of_sum(sum);
  bf16* const out = step.output(s, kv_head, row) + 2 * lane_index();
#pragma unroll
  for (int i = 0; i < pairs; ++i)
    store_pair(step, out + 2 * warp_size * i, totals[i].x * inverse, totals[i].y * inverse);
}

// A block a token and KV head, a warp a row.
template <int D>
__global__ void __launch_bounds__(merging_threads) merging_kernel(Step step, RowPieces<D> pieces) {
  griddepcontrol_wait();
  auto& s = shared<MergingShared>();
  if (blockIdx.x == 0) check_step<merging_threads>(step);
  const int kv_head = static_cast<int>(blockIdx.x) % step.kv_heads;
  const int64_t place = static_cast<int>(blockIdx.x) / step.kv_heads;
  const Spot spot = find_in_line<merging_threads>(
      step.sequences, s.line, [&](int b) { return read_sequence(step, b).queries; }, [place](int64_t) { return place; });
  if (spot.sequence < 0) return;
  const Sequence sequence = read_sequence(step, spot.sequence);
  const int query = static_cast<int>(place - spot.before);
  for (int head = warp_index(); head < step.group; head += merging_threads / warp_size)
    merge_row<D>(step, pieces, sequence, kv_head, query * step.group + head);
}

}  // namespace qwen2::cuda
