// Few tokens: x · weightᵀ bound by the bytes of the weights.
//
// Weights are operand A of mma.m16n8k16 (16 rows × 16 k), tokens its 8 columns. Weights go from memory straight to
// registers: in a slab, 64 k of a row or 128 bytes, lane (g, t) = (lane / 4, lane % 4) loads the 8 k from 8t and the 8 k
// from 32 + 8t on, of rows g and g + 8. The tensor core sums over k in any order that A and B share: of 8 consecutive k,
// elements 4s … 4s + 3 are what a lane holds for step s, and of x it takes the same ones. So nothing is ever shuffled.
//
// A block's warps take the slabs in turn and meet in shared memory, in the order of warps; where K is split over blocks too,
// the last block to arrive adds the partial sums in the order of splits.
//
// x is read from L1 and L2, not staged in shared memory: warps of a block read different k, so staging would save no byte
// and would put a barrier before the first product. A second block on the multiprocessor finds the lines in L1.
//
// Bytes in flight: a warp asks for 8 KB before it uses any (4 slabs of 16 rows or 2 of 32: 64 registers a lane), and for a
// new slab when it has used one, so 8 warps × 2 blocks × 6 to 8 KB = 96 to 128 KB a multiprocessor.
#pragma once

#include "cuda/launch.h"
#include "cuda/matmul.h"
#include "cuda/reduce.h"
#include "cuda/shared.h"

namespace qwen2::cuda {

template <int row_tiles_, int token_tiles_>
struct SkinnyShape {
  static constexpr int row_tiles = row_tiles_, token_tiles = token_tiles_;
  static constexpr int rows = 16 * row_tiles, tokens = 8 * token_tiles;
  static constexpr int depth = 4 / row_tiles;  // slabs in flight
  static constexpr int threads = warp_size * skinny_warps;
  static constexpr int sums = row_tiles * token_tiles * 4;  // a lane
  static constexpr int pairs = rows / 2 * tokens;           // a block
};

template <typename Shape>
struct SkinnyShared {
  float sums[skinny_warps][Shape::sums][warp_size];
  unsigned arrived;
};

// A lane's part of a slab: [tile][row g or g + 8][half of the 64 k].
template <typename Shape>
struct SkinnySlab {
  uint4 weight[Shape::row_tiles][2][2];
};

struct SkinnySums {
  float2* partial;     // [splits][row blocks][pairs of a block], where splits > 1
  unsigned* counters;  // [row blocks]
};

// One warp's way through its slabs.
template <typename Shape>
struct SkinnyWarp {
  const bf16* weight;  // row g of the block's, at 8t
  const bf16* x;       // token g, at 8t
  int64_t K, x_stride;
  int row_tiles, tokens;  // that exist, from row g's tile and token g on
  int end;                // of k, beyond which zeros are read, less 8t

  __device__ SkinnyWarp(const Product& product, int end_slab) {
    const int g = lane_index() / 4, t = lane_index() % 4, first_row = static_cast<int>(blockIdx.x) * Shape::rows;
    K = product.K;
    x_stride = product.x_stride;
    weight = product.weight + (first_row + g) * K + 8 * t;
    x = product.x + g * x_stride + 8 * t;
    row_tiles = (product.rows - first_row) / 16;
    tokens = product.tokens - g;
    end = min(product.K, end_slab * skinny_slab) - 8 * t;
  }

  __device__ void load(SkinnySlab<Shape>& slab, int index) const {
#pragma unroll
    for (int tile = 0; tile < Shape::row_tiles; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int k = index * skinny_slab + i % 2 * 32;
        slab.weight[tile][i / 2][i % 2] =
            load_streaming_or_zeros(weight + (16 * tile + i / 2 * 8) * K + k, k < end && tile < row_tiles);
      }
  }

  __device__ uint4 load_x(int token_tile, int k) const {
    return load_or_zeros(x + 8 * token_tile * x_stride + k, k < end && 8 * token_tile < tokens);
  }

  __device__ void multiply(float (&sums)[Shape::row_tiles][Shape::token_tiles][4], const SkinnySlab<Shape>& slab,
                           int index) const {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < Shape::token_tiles; ++i) {
        const uint4 column = load_x(i, index * skinny_slab + half * 32);
#pragma unroll
        for (int tile = 0; tile < Shape::row_tiles; ++tile) {
          const uint4 low = slab.weight[tile][0][half], high = slab.weight[tile][1][half];
          mma_m16n8k16(sums[tile][i], {low.x, high.x, low.y, high.y}, {column.x, column.y});
          mma_m16n8k16(sums[tile][i], {low.z, high.z, low.w, high.w}, {column.z, column.w});
        }
      }
  }
};

// The sums of rows g and g + 8 of a 16-row tile, for a token.
struct SkinnyPair {
  int tile, g, token;
  template <typename Shape>
  __device__ static SkinnyPair of(int index) {
    return {index / 8 / Shape::tokens, index % 8, index / 8 % Shape::tokens};
  }
};

// Over the block's warps, in their order.
template <typename Shape>
__device__ inline float2 skinny_block_sum(const SkinnyShared<Shape>& block, const SkinnyPair& pair) {
  const int at = (pair.tile * Shape::token_tiles + pair.token / 8) * 4 + pair.token % 2;
  const int lane = pair.g * 4 + pair.token % 8 / 2;
  float2 sum = make_float2(0, 0);
  for (int warp = 0; warp < skinny_warps; ++warp) {
    sum.x += block.sums[warp][at][lane];
    sum.y += block.sums[warp][at + 2][lane];
  }
  return sum;
}

// Whether this block is the last of its row block's splits to have written its partial sums, which are then all visible.
__device__ inline bool skinny_last_to_arrive(unsigned& arrived, unsigned* counters) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    arrived = atomicAdd(&counters[blockIdx.x], 1u);
    if (arrived == gridDim.y - 1) counters[blockIdx.x] = 0;
  }
  __syncthreads();
  __threadfence();
  return arrived == gridDim.y - 1;
}

template <typename Shape, typename Finish>
__device__ inline void skinny_store(const Product& product, const Finish& finish, const SkinnyPair& pair, float2 sum) {
  if (pair.token >= product.tokens) return;
  const int group = static_cast<int>(blockIdx.x) * Shape::row_tiles + pair.tile;
  float sums[2] = {sum.x, sum.y};
  finish.apply(sums, group, pair.g);
  for (int i = 0; i < Finish::outputs; ++i) {
    const int column = finish.column(group, pair.g, i);
    if (column < finish.columns) store_float(finish.out.row(pair.token) + column, sums[i]);
  }
}

// One block: Shape::rows rows, all tokens, one of gridDim.y parts of K.
template <typename Shape, typename Finish>
__global__ void __launch_bounds__(Shape::threads, skinny_resident)
    skinny_kernel(Product product, Finish finish, SkinnySums splits) {
  auto& block = shared<SkinnyShared<Shape>>();
  const int slabs = (product.K + skinny_slab - 1) / skinny_slab, parts = static_cast<int>(gridDim.y);
  const int part = static_cast<int>(blockIdx.y), end = slabs * (part + 1) / parts;
  const SkinnyWarp<Shape> warp(product, end);
  int next = slabs * part / parts + warp_index();

  SkinnySlab<Shape> slab[Shape::depth];
#pragma unroll
  for (int s = 0; s < Shape::depth; ++s) warp.load(slab[s], next + s * skinny_warps);
  // Weights are no launch's output but x is. Who comes behind may begin only now: it reads weights too, which a launch
  // before this one may have packed.
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();

  float sums[Shape::row_tiles][Shape::token_tiles][4] = {};
  for (; next < end; next += Shape::depth * skinny_warps)
#pragma unroll
    for (int s = 0; s < Shape::depth; ++s) {
      warp.multiply(sums, slab[s], next + s * skinny_warps);
      warp.load(slab[s], next + (s + Shape::depth) * skinny_warps);
    }

  for (int i = 0; i < Shape::sums; ++i)
    block.sums[warp_index()][i][lane_index()] = sums[i / 4 / Shape::token_tiles][i / 4 % Shape::token_tiles][i % 4];
  __syncthreads();
  const int64_t part_pairs = int64_t{gridDim.x} * Shape::pairs;
  float2* partial = splits.partial + blockIdx.x * Shape::pairs;
  for (int i = static_cast<int>(threadIdx.x); i < Shape::pairs; i += Shape::threads) {
    const SkinnyPair pair = SkinnyPair::of<Shape>(i);
    const float2 sum = skinny_block_sum(block, pair);
    if (parts == 1) {
      skinny_store<Shape>(product, finish, pair, sum);
    } else {
      partial[part * part_pairs + i] = sum;
    }
  }
  if (parts == 1 || !skinny_last_to_arrive(block.arrived, splits.counters)) return;
  for (int i = static_cast<int>(threadIdx.x); i < Shape::pairs; i += Shape::threads) {
    float2 sum = partial[i];
    for (int p = 1; p < parts; ++p) {
      sum.x += partial[p * part_pairs + i].x;
      sum.y += partial[p * part_pairs + i].y;
    }
    skinny_store<Shape>(product, finish, SkinnyPair::of<Shape>(i), sum);
  }
}

template <typename Shape, typename Finish>
void launch_skinny(Context& context, const Product& product, const Finish& finish, const MatmulPlan& plan) {
  SkinnySums splits{};
  if (plan.splits > 1) {
    splits.partial = static_cast<float2*>(context.workspace(static_cast<size_t>(plan.splits * plan.row_blocks) *
                                                            Shape::pairs * sizeof(float2)));
    splits.counters = context.counters();
  }
  launch(context, skinny_kernel<Shape, Finish>,
         {.blocks = {static_cast<unsigned>(plan.row_blocks), static_cast<unsigned>(plan.splits)},
          .threads = Shape::threads,
          .shared_bytes = sizeof(SkinnyShared<Shape>),
          .dependent = true},
         product, finish, splits);
}

}  // namespace qwen2::cuda
