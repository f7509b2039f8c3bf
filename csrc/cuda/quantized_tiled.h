// Many tokens: x · weightᵀ with int4 and int8 weights, bound by the tensor cores or, up to 128 tokens, still by the bytes
// of the weights.
//
// A block computes 256 rows × 64 tokens; each of its 8 warps has 32 rows of its own and all tokens. So a number becomes
// bf16 once a block, and for 16 KB of weights a block reads 16 KB of x from L2.
//
// Weights go from memory to registers, as with few tokens: what has been used of a unit is at once asked for of the next
// one, 16 KB of int4 or 32 KB of int8 a block, and has the time of a unit's products to arrive in: 256 mma of a scheduler, more
// than 1,000 clocks. x comes through a ring of units in shared memory, filled by cp.async, in the order in which lanes load operand
// B, 16 bytes at a time: two steps of 16 columns. A warp has two row groups because with one shared memory would be the
// limit: 512 bytes take it 4 clocks, and the 4 mma of two row groups take four warps at least 16.
//
// Σx of a unit is made while the one before it is multiplied, of eight tokens by each warp.
//
// 64 sums of a scale group and 64 over all groups a thread: one block a multiprocessor, with up to 255 registers.
// Four scale groups of a unit need the registers of half the rows.
#pragma once

#include "cuda/launch.h"
#include "cuda/matmul_tile.h"
#include "cuda/quantized_plan.h"
#include "cuda/quantized_product.h"
#include "cuda/shared.h"

namespace qwen2::cuda {

template <typename Codec_, int scale_groups_>
struct QuantizedTiledShape {
  using Codec = Codec_;
  using Unit = UnitRegisters<Codec, scale_groups_>;
  static constexpr int scale_groups = scale_groups_;
  static constexpr int rows = quantized_tile_rows(scale_groups), tokens = quantized_tile_tokens, stages = 4;
  static constexpr int warps = 8, threads = warp_size * warps;
  static constexpr int row_tiles = rows / 16 / warps, token_tiles = tokens / 8;  // of a warp
  static constexpr int unit_halves = quantized_unit / 32, group_halves = unit_halves / scale_groups;
};

// A unit of x, as lanes load it, and its sums.
template <typename Shape>
struct QuantizedStage {
  uint4 x[Shape::unit_halves][Shape::tokens * 4];  // [32 columns][token][t]
  float sums[Shape::scale_groups][Shape::tokens];
};

template <typename Shape, typename Finish>
struct QuantizedTiledShared {
  union {
    QuantizedStage<Shape> stages[Shape::stages];
    TiledOutput<Shape, Finish> output;
  };
  unsigned arrived;
};

template <typename Shape>
using QuantizedSums = float[Shape::row_tiles][Shape::token_tiles][4];

// Begins to copy unit `unit` of x. What lies beyond T and K is zeros.
template <typename Shape>
__device__ inline void copy_unit(QuantizedStage<Shape>& stage, const QuantizedProduct& product, int unit,
                                 int first_token) {
  static_assert(Shape::threads == Shape::tokens * 4);
  const int at = static_cast<int>(threadIdx.x), token = first_token + at / 4;
  const int column = unit * quantized_unit + at % 4 * vector_bf16;
  const bf16* from = product.x + token * product.x_stride + column;
#pragma unroll
  for (int half = 0; half < Shape::unit_halves; ++half) {
    const bool inside = token < product.tokens && column + half * 32 < product.K;
    cp_async_16(&stage.x[half][at], inside ? from + half * 32 : product.x, inside ? 16 : 0);
  }
}

// Of eight tokens a warp.
template <typename Shape>
__device__ inline void sum_unit(QuantizedStage<Shape>& stage) {
  static_assert(Shape::warps == Shape::token_tiles);
#pragma unroll
  for (int group = 0; group < Shape::scale_groups; ++group) {
    float sums[4] = {};
#pragma unroll
    for (int half = 0; half < Shape::group_halves; ++half)
      add_columns(sums, stage.x[group * Shape::group_halves + half][warp_index() * warp_size + lane_index()]);
    if (lane_index() % 4 == 0) stage.sums[group][warp_index() * 8 + lane_index() / 4] = sums[0] + sums[2];
  }
}

// A warp's sums += one unit. What has been used of the weights is at once asked for of the next unit, by `refill`.
template <typename Shape, typename Refill>
__device__ inline void multiply_stage(QuantizedSums<Shape>& sums, const typename Shape::Unit (&units)[Shape::row_tiles],
                                      const QuantizedStage<Shape>& stage, const Refill& refill) {
  constexpr int load_halves = Shape::unit_halves / Shape::Codec::unit_loads;
#pragma unroll
  for (int group = 0; group < Shape::scale_groups; ++group) {
    QuantizedSums<Shape> products = {};
#pragma unroll
    for (int i = 0; i < Shape::group_halves; ++i) {
      const int half = group * Shape::group_halves + i;
      uint32_t low[Shape::row_tiles][4], high[Shape::row_tiles][4];
#pragma unroll
      for (int row = 0; row < Shape::row_tiles; ++row) {
        Shape::Codec::fragment(low[row], units[row].weights, 2 * half);
        Shape::Codec::fragment(high[row], units[row].weights, 2 * half + 1);
      }
#pragma unroll
      for (int tile = 0; tile < Shape::token_tiles; ++tile) {
        const uint4 column = stage.x[half][tile * warp_size + lane_index()];
#pragma unroll
        for (int row = 0; row < Shape::row_tiles; ++row) {
          mma_m16n8k16(products[row][tile], low[row], {column.x, column.y});
          mma_m16n8k16(products[row][tile], high[row], {column.z, column.w});
        }
      }
      if (half % load_halves == load_halves - 1) refill(half / load_halves);
    }
#pragma unroll
    for (int tile = 0; tile < Shape::token_tiles; ++tile) {
      float2 x{};
      if constexpr (Shape::Codec::has_zeros)
        x = *reinterpret_cast<const float2*>(&stage.sums[group][tile * 8 + lane_index() % 4 * 2]);
#pragma unroll
      for (int row = 0; row < Shape::row_tiles; ++row)
        add_scaled<typename Shape::Codec>(sums[row][tile], products[row][tile], units[row], group, x);
    }
  }
}

// One block's sums of one tile over its part of K.
template <typename Shape>
__device__ inline void multiply_tile(QuantizedSums<Shape>& sums, QuantizedStage<Shape> (&stages)[Shape::stages],
                                     const QuantizedProduct& product, const TiledPlace& place) {
  const UnitRange part = UnitRange::of(product.weight.units, gridDim.y, blockIdx.y, 1);
  typename Shape::Unit units[Shape::row_tiles] = {};
  const auto each_row = [&](int unit, const auto& load) {
#pragma unroll
    for (int row = 0; row < Shape::row_tiles; ++row) {
      // Where there is no such row group the last one once more: what comes of it is not stored.
      const int group = min(place.first_row / 16 + warp_index() * Shape::row_tiles + row, product.weight.row_groups - 1);
      load(row, group * product.weight.units + part.first_unit + unit, unit < part.units);
    }
  };
  const auto copy = [&](int unit) {
    if (unit < part.units)
      copy_unit(stages[unit % Shape::stages], product, part.first_unit + unit, place.first_token);
    cp_async_commit();
  };

  each_row(0, [&](int row, int at, bool valid) { units[row].load(product.weight, at, valid); });
  // Weights are no launch's output but x is. Who comes behind may begin only now: it reads weights too, which a launch
  // before this one may have packed.
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();
  constexpr int ahead = Shape::stages - 1;
  for (int unit = 0; unit < ahead; ++unit) copy(unit);
  if constexpr (Shape::Codec::has_zeros) {
    cp_async_wait<ahead - 1>();
    __syncthreads();
    sum_unit(stages[0]);
  }
  for (int unit = 0; unit < part.units; ++unit) {
    // This unit of x and the next one have come, and every warp is through with the one before, which is filled again.
    // There is a group for every unit, if empty.
    cp_async_wait<ahead - 2>();
    __syncthreads();
    copy(unit + ahead);
    if constexpr (Shape::Codec::has_zeros)
      if (unit + 1 < part.units) sum_unit(stages[(unit + 1) % Shape::stages]);
    const auto refill = [&](int i) {
      each_row(unit + 1, [&](int row, int at, bool valid) { units[row].load_weights(i, product.weight, at, valid); });
    };
    multiply_stage<Shape>(sums, units, stages[unit % Shape::stages], refill);
    // Of the last unit once more rather than of none: a branch would cost a register that is not there.
    each_row(min(unit + 1, part.units - 1),
             [&](int row, int at, bool) { units[row].load_scales(product.weight, at, true); });
  }
  cp_async_wait<0>();
}

// A warp's sums, finished, to the block's tile of out in shared memory.
template <typename Shape, typename Finish>
__device__ inline void finish_tile(TiledOutput<Shape, Finish>& tile, const QuantizedSums<Shape>& sums,
                                   const Finish& finish, int first_group) {
  const int g = lane_index() / 4, t = lane_index() % 4 * 2;
#pragma unroll
  for (int row = 0; row < Shape::row_tiles; ++row)
#pragma unroll
    for (int i = 0; i < Shape::token_tiles * 2; ++i) {
      const int group = warp_index() * Shape::row_tiles + row;
      float pair[2] = {sums[row][i / 2][i % 2], sums[row][i / 2][i % 2 + 2]};
      finish.apply(pair, first_group + group, g);
      auto* to = tile.rows[i / 2 * 8 + t + i % 2];
#pragma unroll
      for (int o = 0; o < Finish::outputs; ++o) store_float(to + finish.column(group, g, o), pair[o]);
    }
}

// One block: one tile, over one of gridDim.y parts of K.
template <typename Shape, typename Finish>
__global__ void __launch_bounds__(Shape::threads, 1)
    quantized_tiled_kernel(QuantizedProduct product, Finish finish, bool vectors, SplitSums<float4> splits) {
  auto& block = shared<QuantizedTiledShared<Shape, Finish>>();
  const TiledPlace place = TiledPlace::of<Shape>(product.weight.row_groups * 16, product.tokens);
  QuantizedSums<Shape> sums = {};
  multiply_tile<Shape>(sums, block.stages, product, place);
  auto& quads = reinterpret_cast<float(&)[Shape::row_tiles * Shape::token_tiles][4]>(sums);
  if (gridDim.y > 1 && !add_parts<Shape::threads>(quads, splits, block.arrived)) return;
  __syncthreads();
  finish_tile<Shape>(block.output, sums, finish, place.first_row / 16);
  __syncthreads();
  store_tile<Shape>(block.output, finish, place.first_token, product.tokens, place.first_row / 2 * Finish::outputs,
                    vectors);
}

template <typename Shape, typename Finish>
void launch_quantized_tiled(Context& context, const QuantizedProduct& product, const Finish& finish) {
  const int64_t rows = product.weight.row_groups * 16;
  const int64_t tiles = ceil_div(rows, Shape::rows) * ceil_div(product.tokens, Shape::tokens);
  const int splits = quantized_splits(product.tokens, rows, product.weight.units, Shape::rows,
                                      context.device().multiprocessors);
  launch(context, quantized_tiled_kernel<Shape, Finish>,
         {.blocks = {static_cast<unsigned>(tiles), static_cast<unsigned>(splits)},
          .threads = Shape::threads,
          .shared_bytes = sizeof(QuantizedTiledShared<Shape, Finish>),
          .dependent = true},
         product, finish, stores_vectors(finish.out),
         split_sums<float4>(context, splits, tiles, Shape::row_tiles * Shape::token_tiles * Shape::threads));
}

}  // namespace qwen2::cuda
