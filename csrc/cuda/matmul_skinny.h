// Few tokens: x · weightᵀ bound by the bytes of the weights.
//
// Weights are operand A of mma.m16n8k16 (16 rows × 16 k), tokens its 8 columns. Weights go from memory straight to
// registers: of a slab, 64 k or 128 bytes of a row, lane (g, t) = (lane / 4, lane % 4) loads the 8 k from 8t on and the
// 8 k from 32 + 8t on, of rows g and g + 8. The tensor core sums over k in any order that A and B share: of 8
// consecutive k, elements 4s … 4s + 3 are what a lane holds for step s, and of x it takes the same ones. So nothing is
// ever shuffled.
//
// A block's warps take the slabs in turn and meet in shared memory, in the order of warps; where K is split over blocks
// too, the last block to arrive adds the partial sums in the order of splits.
//
// x is read from L1 and L2, not staged in shared memory: warps of a block read different k, so staging would save no
// byte and would put a barrier before the first product. A second block on the multiprocessor finds the lines in L1.
//
// Bytes in flight: a warp asks for 8 halves of slabs of 1 KB (16 rows), or 4 or 3 of 2 KB (32 rows), before it uses
// any, and for a new one when it has used one. With 8 warps and 2 blocks that is 112 to 128, 96 to 128 and 64 to 96 KB
// a multiprocessor.
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
  // Halves of slabs in flight, and multiplied in one turn of the loop: whole slabs. With 32 tokens a fourth half would
  // spill.
  static constexpr unsigned flight = row_tiles == 1 ? 8 : token_tiles == 4 ? 3 : 4;
  static constexpr unsigned turn = flight % 2 == 0 ? flight : 2 * flight;
  static constexpr int threads = warp_size * skinny_warps;
  static constexpr int sums = row_tiles * token_tiles * 4;  // a lane
  static constexpr int pairs = rows / 2 * tokens;           // a block
};

template <typename Shape>
struct SkinnyShared {
  float sums[skinny_warps][Shape::sums][warp_size];
  unsigned arrived;
};

// A lane's part of half a slab: [tile][row g or g + 8].
template <typename Shape>
struct SkinnyHalf {
  uint4 weight[Shape::row_tiles][2];
};

// One warp's way through its slabs: every skinny_warps-th one.
template <typename Shape>
struct SkinnyWarp {
  static constexpr int stride = skinny_warps * matmul_slab;  // of k, between its slabs
  const char* weight;  // the block's rows
  const char* x;
  // In bytes, of 32 bits, from what is the same for all lanes: registers are what limits the bytes in flight.
  unsigned row, token;  // row g and token g, at 8t of the first slab that is not multiplied yet
  unsigned next_rows, next_tile, next_tokens;  // to eight rows on, to the next tile of rows, to eight tokens on
  int tokens;  // that exist from token g on
  int left;    // k from there on; zeros are read beyond

  __device__ SkinnyWarp(const Product& product, const MatmulPart& part) {
    const int g = lane_index() / 4, t = lane_index() % 4, first_row = static_cast<int>(blockIdx.x) * Shape::rows;
    const int first_k = (part.first_slab + warp_index()) * matmul_slab + 8 * t;
    const unsigned row_bytes = product.K * sizeof(bf16), token_bytes = product.x_stride * sizeof(bf16);
    weight = reinterpret_cast<const char*>(product.weight + int64_t{first_row} * product.K);
    x = reinterpret_cast<const char*>(product.x);
    row = g * row_bytes + first_k * sizeof(bf16);
    token = g * token_bytes + first_k * sizeof(bf16);
    next_rows = 8 * row_bytes;
    // Where there is none, the first once more: what comes of it is not stored.
    next_tile = product.rows - first_row > 16 ? 16 * row_bytes : 0;
    next_tokens = 8 * token_bytes;
    tokens = product.tokens - g;
    left = min(product.K, part.end_slab * matmul_slab) - first_k;
  }

  // The same for all lanes.
  __device__ bool goes_on() const { return left > -8 * (lane_index() % 4); }

  __device__ void advance() {
    constexpr int k = Shape::turn / 2 * stride;
    row += k * sizeof(bf16);
    token += k * sizeof(bf16);
    left -= k;
  }

  // The 32 k from `k` on of all tiles of rows.
  __device__ void load(SkinnyHalf<Shape>& half, unsigned k) const {
#pragma unroll
    for (unsigned tile = 0; tile < Shape::row_tiles; ++tile)
#pragma unroll
      for (unsigned i = 0; i < 2; ++i) {
        const unsigned at = row + tile * next_tile + i * next_rows + k * unsigned{sizeof(bf16)};
        half.weight[tile][i] = load_streaming_or_zeros(weight + at, static_cast<int>(k) < left);
      }
  }

  __device__ void multiply(float (&sums)[Shape::row_tiles][Shape::token_tiles][4], const SkinnyHalf<Shape>& half,
                           unsigned k) const {
#pragma unroll
    for (unsigned i = 0; i < Shape::token_tiles; ++i) {
      const unsigned at = token + i * next_tokens + k * unsigned{sizeof(bf16)};
      const uint4 column = load_or_zeros(x + at, static_cast<int>(k) < left && static_cast<int>(8 * i) < tokens);
#pragma unroll
      for (int tile = 0; tile < Shape::row_tiles; ++tile) {
        const uint4 low = half.weight[tile][0], high = half.weight[tile][1];
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

// One block: Shape::rows rows, all tokens, one of gridDim.y parts of K.
template <typename Shape, typename Finish>
__global__ void __launch_bounds__(Shape::threads, matmul_resident)
    skinny_kernel(Product product, Finish finish, SplitSums<float2> splits) {
  auto& block = shared<SkinnyShared<Shape>>();
  const int parts = static_cast<int>(gridDim.y), part = static_cast<int>(blockIdx.y);
  SkinnyWarp<Shape> warp(product, MatmulPart::of_block(product.K));

  const auto k_of = [](unsigned half) { return half / 2 * SkinnyWarp<Shape>::stride + half % 2 * matmul_slab / 2; };
  SkinnyHalf<Shape> halves[Shape::flight];
#pragma unroll
  for (unsigned h = 0; h < Shape::flight; ++h) warp.load(halves[h], k_of(h));
  // Weights are no launch's output but x is. Who comes behind may begin only now: it reads weights too, which a launch
  // before this one may have packed.
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();

  float sums[Shape::row_tiles][Shape::token_tiles][4] = {};
  for (; warp.goes_on(); warp.advance())
#pragma unroll
    for (unsigned h = 0; h < Shape::turn; ++h) {
      warp.multiply(sums, halves[h % Shape::flight], k_of(h));
      warp.load(halves[h % Shape::flight], k_of(h + Shape::flight));
    }

  for (int i = 0; i < Shape::sums; ++i)
    block.sums[warp_index()][i][lane_index()] = sums[i / 4 / Shape::token_tiles][i / 4 % Shape::token_tiles][i % 4];
  __syncthreads();
  const int64_t part_pairs = int64_t{gridDim.x} * Shape::pairs;
  const auto store = [&](const SkinnyPair& pair, float2 sum) {
    store_pair(finish, static_cast<int>(blockIdx.x) * Shape::row_tiles + pair.tile, pair.g, pair.token, product.tokens,
               sum);
  };
  float2* partial = splits.partial + blockIdx.x * Shape::pairs;
  for (int i = static_cast<int>(threadIdx.x); i < Shape::pairs; i += Shape::threads) {
    const SkinnyPair pair = SkinnyPair::of<Shape>(i);
    const float2 sum = skinny_block_sum(block, pair);
    if (parts == 1) {
      store(pair, sum);
    } else {
      partial[part * part_pairs + i] = sum;
    }
  }
  if (parts == 1 || !last_to_arrive(block.arrived, splits.counters[blockIdx.x], gridDim.y)) return;
  for (int i = static_cast<int>(threadIdx.x); i < Shape::pairs; i += Shape::threads) {
    float2 sum = partial[i];
    for (int p = 1; p < parts; ++p) {
      sum.x += partial[p * part_pairs + i].x;
      sum.y += partial[p * part_pairs + i].y;
    }
    store(SkinnyPair::of<Shape>(i), sum);
  }
}

template <typename Shape, typename Finish>
void launch_skinny(Context& context, const Product& product, const Finish& finish, const MatmulPlan& plan) {
  launch(context, skinny_kernel<Shape, Finish>,
         {.blocks = {static_cast<unsigned>(plan.row_blocks), static_cast<unsigned>(plan.splits)},
          .threads = Shape::threads,
          .shared_bytes = sizeof(SkinnyShared<Shape>),
          .dependent = true},
         product, finish, split_sums<float2>(context, plan.splits, plan.row_blocks, Shape::pairs));
}

}  // namespace qwen2::cuda
