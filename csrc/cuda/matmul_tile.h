// What tiled kernels do with a tile of a product, whatever the weights are: where it lies, its sums where K is split, and
// its way out.
#pragma once

#include "cuda/matmul.h"

namespace qwen2::cuda {

// Which tile a block computes. Blocks that run at the same time form a patch of the product, so that they share weights
// and x in L2: sixteen tiles of tokens, the fastest, by as many of rows as there are multiprocessors for.
struct TiledPlace {
  int first_row, first_token;
  template <typename Shape>
  __device__ static TiledPlace of(int rows, int tokens) {
    constexpr int most_together = 16;
    const int row_blocks = (rows + Shape::rows - 1) / Shape::rows;
    const int token_blocks = (tokens + Shape::tokens - 1) / Shape::tokens;
    const int block = static_cast<int>(blockIdx.x), band = block / (most_together * row_blocks);
    const int within = block % (most_together * row_blocks);
    const int together = min(token_blocks - band * most_together, most_together);
    return {within / together * Shape::rows, (band * most_together + within % together) * Shape::tokens};
  }
};

// Leaves a part's sums in the workspace: of a thread four at a time. The last block of the tile gets the sums over all
// parts, and only it goes on.
template <int threads, int quads>
__device__ inline bool add_parts(float (&sums)[quads][4], const SplitSums<float4>& splits, unsigned& arrived) {
  const int64_t part_quads = int64_t{gridDim.x} * quads * threads;
  float4* const partial = splits.partial + int64_t{blockIdx.x} * quads * threads + threadIdx.x;
#pragma unroll
  for (int q = 0; q < quads; ++q)
    partial[blockIdx.y * part_quads + q * threads] = make_float4(sums[q][0], sums[q][1], sums[q][2], sums[q][3]);
  if (!last_to_arrive(arrived, splits.counters[blockIdx.x], gridDim.y)) return false;
#pragma unroll
  for (int q = 0; q < quads; ++q) sums[q][0] = sums[q][1] = sums[q][2] = sums[q][3] = 0;
#pragma unroll 1
  for (int part = 0; part < static_cast<int>(gridDim.y); ++part)
#pragma unroll
    for (int q = 0; q < quads; ++q) {
      const float4 more = partial[part * part_quads + q * threads];
      sums[q][0] += more.x, sums[q][1] += more.y, sums[q][2] += more.z, sums[q][3] += more.w;
    }
  return true;
}

// After the products, the same memory holds what goes to out. The gap keeps rows in different banks.
template <typename Shape, typename Finish>
struct TiledOutput {
  static constexpr int columns = Shape::rows / 2 * Finish::outputs;
  static constexpr int vector = 16 / sizeof(typename Finish::Out);
  typename Finish::Out rows[Shape::tokens][columns + vector];
};

// Whether rows of out can be written 16 bytes at a time.
template <typename Out>
bool stores_vectors(const Rows<Out>& out) {
  return reinterpret_cast<uintptr_t>(out.data) % 16 == 0 && out.stride * static_cast<int64_t>(sizeof(Out)) % 16 == 0;
}

// From shared memory to out, 16 bytes at a time where rows allow it.
template <typename Shape, typename Finish>
__device__ inline void store_tile(const TiledOutput<Shape, Finish>& tile, const Finish& finish, int first_token,
                                  int tokens, int first_column, bool vectors) {
  using Tile = TiledOutput<Shape, Finish>;
  constexpr int chunks = Tile::columns / Tile::vector;
  for (int i = static_cast<int>(threadIdx.x); i < Shape::tokens * chunks; i += Shape::threads) {
    const int row = i / chunks, offset = i % chunks * Tile::vector, column = first_column + offset;
    if (first_token + row >= tokens) return;
    const auto* from = tile.rows[row] + offset;
    auto* to = finish.out.row(first_token + row) + column;
    if (vectors && column + Tile::vector <= finish.columns) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else {
      for (int c = 0; c < Tile::vector && column + c < finish.columns; ++c) to[c] = from[c];
    }
  }
}

}  // namespace qwen2::cuda
