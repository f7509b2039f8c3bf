// Many tokens: x · weightᵀ bound by the tensor cores or, up to 256 tokens, still by the bytes of the weights.
//
// x is operand A of mma.m16n8k16 and weights are B, both by ldmatrix from shared memory, where a ring of stages is
// filled by cp.async: while one stage is multiplied, the next stages − 1 are on their way. What lies beyond the edges
// of T, N and K is filled with zeros. Sums go over k in one order, whatever the tile. Where tiles alone leave
// multiprocessors idle, K is split over blocks too (matmul_plan.h). A batch-invariant product that is cut into parts the
// same way for any T has kernels of both kinds: a block a part, and a block that walks all parts.
//
// In shared memory the 16-byte chunks of a row are permuted (chunk XOR row, over 128 bytes), so that the eight rows
// that one phase of ldmatrix or of a copy touches lie in different banks.
//
// A 128 × 128 tile takes 80 KB in 5 stages of 32 k and 64 sums a thread: two blocks a multiprocessor where it has the
// shared memory (A100, H100), so that one multiplies while the other waits at its barrier. A step of 16 k is 6 ldmatrix
// for 16 mma a warp. All but one stage is in flight: 32 KB of weights a block, of 64 × 64 deep too; 40 KB of 128 × 64
// deep.
#pragma once

#include "cuda/launch.h"
#include "cuda/matmul_tile.h"
#include "cuda/reduce.h"
#include "cuda/shared.h"

namespace qwen2::cuda {

// Warps share a tile as warps_tokens × warps_rows parts.
template <int rows_, int tokens_, int k_, int stages_, int warps_rows_, int warps_tokens_>
struct TiledShape {
  static constexpr int rows = rows_, tokens = tokens_, k = k_, stages = stages_;
  static constexpr int warps_rows = warps_rows_, warps_tokens = warps_tokens_;
  static constexpr int threads = warp_size * warps_rows * warps_tokens;
  static constexpr int warp_rows = rows / warps_rows, warp_tokens = tokens / warps_tokens;
  static constexpr int token_tiles = warp_tokens / 16, groups = warp_rows / matmul_group;  // a warp
};

template <typename Shape>
struct TiledStage {
  bf16 x[Shape::tokens][Shape::k];
  bf16 weight[Shape::rows][Shape::k];
};

// Where a chunk of eight k of a row lies: 128 bytes, one or two rows, hold eight chunks.
template <int k>
__device__ inline int swizzled(int row, int chunk) {
  constexpr int chunks = k / vector_bf16;
  static_assert(chunks == 4 || chunks == 8);
  return (chunk ^ row / (8 / chunks) % chunks) * vector_bf16;
}

// Begins to copy a tile of a matrix, [limit, K] with rows `stride` apart.
template <int rows, int k, int threads>
__device__ inline void copy_tile(bf16 (&to)[rows][k], const bf16* from, int64_t stride, int first_row, int limit,
                                 int first_k, int K) {
  constexpr int chunks = k / vector_bf16;
  static_assert(rows * chunks % threads == 0);
#pragma unroll
  for (int i = 0; i < rows * chunks / threads; ++i) {
    const int at = i * threads + static_cast<int>(threadIdx.x), row = at / chunks, chunk = at % chunks;
    const bool inside = first_row + row < limit && first_k + chunk * vector_bf16 < K;
    const bf16* source = inside ? from + (first_row + row) * stride + first_k + chunk * vector_bf16 : from;
    cp_async_16(&to[row][swizzled<k>(row, chunk)], source, inside ? 16 : 0);
  }
}

template <typename Shape>
using TiledSums = float[Shape::token_tiles][Shape::groups][2][4];  // [tokens][rows g or g + 8 of a group]

// One warp's products of a stage.
template <typename Shape>
__device__ inline void multiply_stage(TiledSums<Shape>& sums, const TiledStage<Shape>& stage) {
  const int first_token = warp_index() % Shape::warps_tokens * Shape::warp_tokens;
  const int first_row = warp_index() / Shape::warps_tokens * Shape::warp_rows;
  // ldmatrix gives matrix i (lane / 8) to register i. Of x: tokens 0 … 7 and 8 … 15, then the next 8 k. Of a group of
  // weights: 8 k and the next of rows 0 … 7, then of rows 8 … 15.
  const int token = lane_index() % 16, token_chunk = lane_index() / 16;
  const int row = lane_index() / 16 * 8 + lane_index() % 8, row_chunk = lane_index() / 8 % 2;
#pragma unroll
  for (int step = 0; step < Shape::k / 16; ++step) {
    uint32_t x[Shape::token_tiles][4], weight[Shape::groups][4];
#pragma unroll
    for (int i = 0; i < Shape::token_tiles; ++i)
      ldmatrix_x4(x[i], &stage.x[first_token + 16 * i + token][swizzled<Shape::k>(token, 2 * step + token_chunk)]);
#pragma unroll
    for (int j = 0; j < Shape::groups; ++j)
      ldmatrix_x4(weight[j], &stage.weight[first_row + 16 * j + row][swizzled<Shape::k>(row, 2 * step + row_chunk)]);
#pragma unroll
    for (int i = 0; i < Shape::token_tiles; ++i)
#pragma unroll
      for (int j = 0; j < Shape::groups; ++j) {
        mma_m16n8k16(sums[i][j][0], x[i], {weight[j][0], weight[j][1]});
        mma_m16n8k16(sums[i][j][1], x[i], {weight[j][2], weight[j][3]});
      }
  }
}

__device__ inline void store_two(bf16* to, float a, float b) { *reinterpret_cast<uint32_t*>(to) = cvt_bf16x2(a, b); }
__device__ inline void store_two(float* to, float a, float b) { *reinterpret_cast<float2*>(to) = make_float2(a, b); }

// A warp's sums, finished, to the block's tile of out in shared memory.
template <typename Shape, typename Finish>
__device__ inline void finish_tile(TiledOutput<Shape, Finish>& tile, TiledSums<Shape>& sums, const Finish& finish,
                                   int first_group) {
  const int g = lane_index() / 4, t = lane_index() % 4 * 2;
  const int first_token = warp_index() % Shape::warps_tokens * Shape::warp_tokens;
  const int warp_group = warp_index() / Shape::warps_tokens * Shape::groups;
#pragma unroll
  for (int i = 0; i < Shape::token_tiles; ++i)
#pragma unroll
    for (int j = 0; j < Shape::groups; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float pairs[2][2];  // of rows t and t + 1
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          pairs[c][0] = sums[i][j][0][2 * half + c];
          pairs[c][1] = sums[i][j][1][2 * half + c];
          finish.apply(pairs[c], first_group + warp_group + j, t + c);
        }
        auto* row = tile.rows[first_token + 16 * i + 8 * half + g];
#pragma unroll
        for (int o = 0; o < Finish::outputs; ++o)
          store_two(row + finish.column(warp_group + j, t, o), pairs[0][o], pairs[1][o]);
      }
}

template <typename Shape, typename Finish>
struct TiledShared {
  union {
    TiledStage<Shape> stages[Shape::stages];
    TiledOutput<Shape, Finish> output;
  };
  unsigned arrived;
};

// A thread's sums of a tile, four at a time.
template <typename Shape>
constexpr int tiled_quads = Shape::token_tiles * Shape::groups * 2;

// One block's sums of one tile over a part of K.
template <typename Shape>
__device__ inline void multiply_tile(TiledSums<Shape>& sums, TiledStage<Shape> (&stages)[Shape::stages],
                                     const Product& product, const TiledPlace& place, const MatmulPart& part) {
  const int first_k = part.first_slab * matmul_slab, end_k = min(product.K, part.end_slab * matmul_slab);
  const int steps = (end_k - first_k + Shape::k - 1) / Shape::k;
  const auto copy_weight = [&](int step) {
    if (step < steps)
      copy_tile<Shape::rows, Shape::k, Shape::threads>(stages[step % Shape::stages].weight, product.weight, product.K,
                                                       place.first_row, product.rows, first_k + step * Shape::k, end_k);
  };
  const auto copy_x = [&](int step) {
    if (step < steps)
      copy_tile<Shape::tokens, Shape::k, Shape::threads>(stages[step % Shape::stages].x, product.x, product.x_stride,
                                                         place.first_token, product.tokens, first_k + step * Shape::k,
                                                         end_k);
  };

  constexpr int ahead = Shape::stages - 1;
  for (int step = 0; step < ahead; ++step) copy_weight(step);
  // Weights are no launch's output but x is. Who comes behind may begin only now: it reads weights too, which a launch
  // before this one may have packed.
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();
  for (int step = 0; step < ahead; ++step) {
    copy_x(step);
    cp_async_commit();
  }
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<ahead - 1>();
    __syncthreads();
    // Every warp is through with the stage before this one: it is filled again. There is a group for every step, if
    // empty.
    copy_weight(step + ahead);
    copy_x(step + ahead);
    cp_async_commit();
    multiply_stage<Shape>(sums, stages[step % Shape::stages]);
  }
  cp_async_wait<0>();
}

// One block: one tile, over one of gridDim.y parts of K.
template <typename Shape, typename Finish>
__global__ void __launch_bounds__(Shape::threads, 512 / Shape::threads)
    tiled_kernel(Product product, Finish finish, bool vectors, SplitSums<float4> splits) {
  auto& block = shared<TiledShared<Shape, Finish>>();
  const TiledPlace place = TiledPlace::of<Shape>(product.rows, product.tokens);
  TiledSums<Shape> sums = {};
  multiply_tile<Shape>(sums, block.stages, product, place, MatmulPart::of_block(product.K));
  auto& quads = reinterpret_cast<float(&)[tiled_quads<Shape>][4]>(sums);
  if (gridDim.y > 1 && !add_parts<Shape::threads>(quads, splits, block.arrived)) return;
  __syncthreads();
  finish_tile<Shape>(block.output, sums, finish, place.first_row / matmul_group);
  __syncthreads();
  store_tile<Shape>(block.output, finish, place.first_token, product.tokens, place.first_row / 2 * Finish::outputs,
                    vectors);
}

template <typename Shape, typename Finish>
void launch_tiled(Context& context, const Product& product, const Finish& finish, const MatmulPlan& plan) {
  const int64_t tiles = plan.row_blocks * plan.token_blocks;
  launch(context, tiled_kernel<Shape, Finish>,
         {.blocks = {static_cast<unsigned>(tiles), static_cast<unsigned>(plan.splits)},
          .threads = Shape::threads,
          .shared_bytes = sizeof(TiledShared<Shape, Finish>),
          .dependent = true},
         product, finish, stores_vectors(finish.out),
         split_sums<float4>(context, plan.splits, tiles, tiled_quads<Shape> * Shape::threads));
}

// One block: one tile, over all parts of K one after another, with the sums that blocks of their own would come to.
template <typename Shape, typename Finish>
__global__ void __launch_bounds__(Shape::threads, 512 / Shape::threads)
    walking_kernel(Product product, Finish finish, bool vectors, int parts) {
  auto& block = shared<TiledShared<Shape, Finish>>();
  const TiledPlace place = TiledPlace::of<Shape>(product.rows, product.tokens);
  TiledSums<Shape> totals = {};
#pragma unroll 1
  for (int part = 0; part < parts; ++part) {
    TiledSums<Shape> sums = {};
    multiply_tile<Shape>(sums, block.stages, product, place, MatmulPart::of(product.K, part, parts));
    auto& total = reinterpret_cast<float(&)[tiled_quads<Shape> * 4]>(totals);
#pragma unroll
    for (int i = 0; i < tiled_quads<Shape> * 4; ++i) total[i] += reinterpret_cast<float*>(sums)[i];
    // Every warp is through with the stages, which the next part or the output fills.
    __syncthreads();
  }
  finish_tile<Shape>(block.output, totals, finish, place.first_row / matmul_group);
  __syncthreads();
  store_tile<Shape>(block.output, finish, place.first_token, product.tokens, place.first_row / 2 * Finish::outputs,
                    vectors);
}

template <typename Shape, typename Finish>
void launch_walking(Context& context, const Product& product, const Finish& finish, const MatmulPlan& plan) {
  launch(context, walking_kernel<Shape, Finish>,
         {.blocks = {static_cast<unsigned>(plan.row_blocks * plan.token_blocks)},
          .threads = Shape::threads,
          .shared_bytes = sizeof(TiledShared<Shape, Finish>),
          .dependent = true},
         product, finish, stores_vectors(finish.out), plan.walks);
}

}  // namespace qwen2::cuda
