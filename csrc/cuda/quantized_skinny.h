// Few tokens: x · weightᵀ bound by the bytes of an int4 or int8 weight.
//
// K is cut into parts. A warp multiplies one part of one group of 16 rows, a block of 16 warps `together` parts of
// 16 / together row groups. Blocks stay: each goes from task to task, and its x, of those parts and all tokens, lies in
// shared memory from the first to the last. So weights are all that is read from memory, and x is read from L2 once a
// multiprocessor: read again for every 32 rows it would be, at 16 tokens, twice the bytes of the weights.
//
// Weights go from memory to registers, 16 bytes a lane, in the order of operand A (quantized.h): 4 KB a warp are on their
// way, 64 KB a multiprocessor, whatever task they belong to. A ring of units: when one is multiplied, the one a turn later
// is asked for, and before the first turn none waits for x.
//
// The order of summation: a part from its first column to its last; then the parts, in a tree. It depends on neither T
// nor `together`.
//
// A multiprocessor has one block: 512 threads of 128 registers.
#pragma once

#include "cuda/launch.h"
#include "cuda/matmul.h"
#include "cuda/quantized_plan.h"
#include "cuda/quantized_product.h"
#include "cuda/reduce.h"
#include "cuda/shared.h"

namespace qwen2::cuda {

template <typename Codec_, int scale_groups_, int token_tiles_>
struct QuantizedSkinnyShape {
  using Codec = Codec_;
  using Unit = UnitRegisters<Codec, scale_groups_>;
  static constexpr int scale_groups = scale_groups_, token_tiles = token_tiles_;
  static constexpr int tokens = 8 * token_tiles, sums = 4 * token_tiles;  // sums: of a lane
  static constexpr int turn = turn_units(Codec::unit_loads * 512, scale_groups);
  static constexpr int threads = warp_size * quantized_warps;
  // Tokens that x has room for: a few as they are, so that a block holds more parts of it.
  __device__ static int stored(int given) { return token_tiles == 1 ? given : tokens; }
  // Of 32 columns, which four lanes' loads make.
  static constexpr int unit_halves = quantized_unit / 32, group_halves = unit_halves / scale_groups;
};

// Shared memory. Behind it lie x, [32 columns][token][t] 16 bytes, and Σx, [scale group][token of the tiles].
template <typename Shape>
struct alignas(16) QuantizedShared {
  float sums[quantized_warps][Shape::sums][warp_size];
  unsigned arrived;
  __device__ uint4* x() { return reinterpret_cast<uint4*>(this + 1); }
};

// x of the block, as lanes load it. Columns beyond K are zeros.
template <typename Shape>
__device__ inline void stage_x(uint4* x, const QuantizedProduct& product, const UnitRange& range) {
  const int chunks = range.units * (quantized_unit / vector_bf16), first = range.first_unit * quantized_unit;
  for (int token = 0; token < product.tokens; ++token)
    for (int i = static_cast<int>(threadIdx.x); i < chunks; i += Shape::threads) {
      const int column = first + i * vector_bf16;
      const bool inside = column < product.K;
      cp_async_16(x + (i / 4 * Shape::stored(product.tokens) + token) * 4 + i % 4,
                  inside ? product.x + token * product.x_stride + column : product.x, inside ? 16 : 0);
    }
  cp_async_commit();
  cp_async_wait<0>();
}

// A lane's columns of x.
template <typename Shape>
struct QuantizedColumns {
  const uint4* x;
  int apart;  // of the next 32 columns
  __device__ QuantizedColumns(const uint4* x, int tokens) : apart(Shape::stored(tokens) * 4) {
    // Of eight tokens the last one's where there is none: what comes of it is not stored.
    this->x = x + min(lane_index() / 4, Shape::stored(tokens) - 1) * 4 + lane_index() % 4;
  }
  __device__ uint4 load(int half, int tile) const { return x[half * apart + tile * 32]; }
};

template <typename Shape>
__device__ inline void sum_x(float* x_sums, const uint4* x, const QuantizedProduct& product,
                             const UnitRange& range) {
  const QuantizedColumns<Shape> columns(x, product.tokens);
  const int items = range.units * Shape::scale_groups * Shape::token_tiles;
  for (int item = warp_index(); item < items; item += quantized_warps) {
    const int group = item / Shape::token_tiles, tile = item % Shape::token_tiles;
    float sums[4] = {};
    for (int half = 0; half < Shape::group_halves; ++half)
      add_columns(sums, columns.load(group * Shape::group_halves + half, tile));
    if (lane_index() % 4 == 0) x_sums[group * Shape::tokens + 8 * tile + lane_index() / 4] = sums[0] + sums[2];
  }
}

// sums += one unit, the block's `index`th.
template <typename Shape>
__device__ inline void multiply_unit(float (&sums)[Shape::token_tiles][4], const typename Shape::Unit& unit,
                                     const QuantizedColumns<Shape>& columns, int index, const float* x_sums) {
  x_sums += index * Shape::scale_groups * Shape::tokens + lane_index() % 4 * 2;
#pragma unroll
  for (int group = 0; group < Shape::scale_groups; ++group) {
    float products[Shape::token_tiles][4] = {};
#pragma unroll
    for (int i = 0; i < Shape::group_halves; ++i) {
      const int h = group * Shape::group_halves + i;
      uint32_t low[4], high[4];
      Shape::Codec::fragment(low, unit.weights, 2 * h);
      Shape::Codec::fragment(high, unit.weights, 2 * h + 1);
#pragma unroll
      for (int tile = 0; tile < Shape::token_tiles; ++tile) {
        const uint4 column = columns.load(index * Shape::unit_halves + h, tile);
        mma_m16n8k16(products[tile], low, {column.x, column.y});
        mma_m16n8k16(products[tile], high, {column.z, column.w});
      }
    }
#pragma unroll
    for (int tile = 0; tile < Shape::token_tiles; ++tile) {
      const float* x = x_sums + group * Shape::tokens + 8 * tile;
      add_scaled<typename Shape::Codec>(sums[tile], products[tile], unit, group,
                                        Shape::Codec::has_zeros ? *reinterpret_cast<const float2*>(x) : float2{});
    }
  }
}

// The sum of `count` values, a power of two up to 16, in a tree: that of 2n is the sum of the two of n. Eight are asked for
// before the first is used.
template <typename Value>
__device__ inline float2 tree_sum(int count, const Value& value) {
  constexpr int most = 8;
  float2 total = make_float2(0, 0);
#pragma unroll 1
  for (int first = 0; first < count; first += most) {
    float2 sums[most];
#pragma unroll
    for (int i = 0; i < most; ++i) sums[i] = value(min(first + i, count - 1));
#pragma unroll
    for (int i = 1; i < most; ++i)
      if (i >= count) sums[i] = make_float2(0, 0);
#pragma unroll
    for (int width = 1; width < most; width *= 2)
#pragma unroll
      for (int i = 0; i < most; i += 2 * width) {
        sums[i].x += sums[i + width].x;
        sums[i].y += sums[i + width].y;
      }
    total.x += sums[0].x;
    total.y += sums[0].y;
  }
  return total;
}

// What a block does with the sums of its warps, of one task.
template <typename Shape, typename Finish>
__device__ inline void finish_task(QuantizedShared<Shape>& block, const QuantizedProduct& product, const Finish& finish,
                                   const SplitSums<float2>& splits, int task, int tasks) {
  const int together = product.together, teams = quantized_warps / together, pairs = teams * 8 * Shape::tokens;
  const int parts = static_cast<int>(gridDim.y), part = static_cast<int>(blockIdx.y);
  const auto token_of = [](int i) { return i / 8 % Shape::tokens; };
  const auto store = [&](int i, float2 sum) {
    store_pair(finish, task * teams + i / 8 / Shape::tokens, i % 8, token_of(i), product.tokens, sum);
  };
  float2* const partial = splits.partial + int64_t{task} * pairs;
  for (int i = static_cast<int>(threadIdx.x); i < pairs; i += Shape::threads) {
    const int team = i / 8 / Shape::tokens, g = i % 8, token = token_of(i);
    if (token >= product.tokens) continue;
    const int at = token / 8 * 4 + token % 2, lane = g * 4 + token % 8 / 2;
    const float2 sum = tree_sum(together, [&](int member) {
      const auto& sums = block.sums[team * together + member];
      return make_float2(sums[at][lane], sums[at + 2][lane]);
    });
    if (parts == 1) {
      store(i, sum);
    } else {
      partial[int64_t{part} * tasks * pairs + i] = sum;
    }
  }
  if (parts == 1 || !last_to_arrive(block.arrived, splits.counters[task], parts)) return;
  for (int i = static_cast<int>(threadIdx.x); i < pairs; i += Shape::threads)
    if (token_of(i) < product.tokens)
      store(i, tree_sum(parts, [&](int p) { return partial[int64_t{p} * tasks * pairs + i]; }));
}

// A warp's way through its units: its part of one row group after another.
struct QuantizedCursor {
  int row_group, stride, row_groups;  // stride: to the next one
  int turn, turns;
  UnitRange part;

  // Units that are left of the part.
  __device__ int left(int turn_units) const { return row_group < row_groups ? part.units - turn * turn_units : 0; }
  __device__ void advance() {
    if (++turn < turns) return;
    turn = 0;
    row_group += stride;
  }
};

// One block: tokens × the row groups of tasks blockIdx.x, blockIdx.x + gridDim.x, …, over one of gridDim.y ranges of
// parts.
template <typename Shape, typename Finish>
__global__ void __launch_bounds__(Shape::threads, 1)
    quantized_skinny_kernel(QuantizedProduct product, Finish finish, SplitSums<float2> splits) {
  auto& block = shared<QuantizedShared<Shape>>();
  const int teams = quantized_warps / product.together, first_part = static_cast<int>(blockIdx.y) * product.together;
  const int tasks = (product.weight.row_groups + teams - 1) / teams;
  const UnitRange range = UnitRange::of(product.weight.units, product.parts, first_part, product.together);
  // Where the next units to load are: a turn ahead of those that are multiplied.
  QuantizedCursor ahead{static_cast<int>(blockIdx.x) * teams + warp_index() / product.together,
                        static_cast<int>(gridDim.x) * teams, product.weight.row_groups, 0, product.turns,
                        UnitRange::of(product.weight.units, product.parts, first_part + warp_index() % product.together, 1)};
  const int first = ahead.part.first_unit - range.first_unit;

  typename Shape::Unit units[Shape::turn] = {};
  const auto load = [&](int i) {
    const int unit = ahead.row_group * product.weight.units + ahead.part.first_unit + ahead.turn * Shape::turn;
    units[i].load(product.weight, unit + i, i < ahead.left(Shape::turn));
  };
#pragma unroll
  for (int i = 0; i < Shape::turn; ++i) load(i);
  // Weights are no launch's output but x is. Who comes behind may begin only now: it reads weights too, which a launch
  // before this one may have packed.
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();

  uint4* const x = block.x();
  float* const x_sums = reinterpret_cast<float*>(x + range.units * Shape::unit_halves * Shape::stored(product.tokens) * 4);
  stage_x<Shape>(x, product, range);
  __syncthreads();
  if constexpr (Shape::Codec::has_zeros) {
    sum_x<Shape>(x_sums, x, product, range);
    __syncthreads();
  }

  const QuantizedColumns<Shape> columns(x, product.tokens);
  for (int task = static_cast<int>(blockIdx.x); task < tasks; task += static_cast<int>(gridDim.x)) {
    float sums[Shape::token_tiles][4] = {};
    for (int unit = first; unit < first + product.turns * Shape::turn; unit += Shape::turn) {
      const int left = ahead.left(Shape::turn);
      ahead.advance();
#pragma unroll
      for (int i = 0; i < Shape::turn; ++i) {
        if (i < left)
          multiply_unit<Shape>(sums, units[i], columns, unit + i, x_sums);
        load(i);
      }
    }
    __syncthreads();
    for (int i = 0; i < Shape::sums; ++i) block.sums[warp_index()][i][lane_index()] = sums[i / 4][i % 4];
    __syncthreads();
    finish_task(block, product, finish, splits, task, tasks);
  }
}

template <typename Shape, typename Finish>
void launch_quantized_skinny(Context& context, const QuantizedProduct& product, const Finish& finish,
                             const QuantizedSkinnyPlan& plan) {
  const int pairs = quantized_warps / plan.together * 8 * Shape::tokens;
  launch(context, quantized_skinny_kernel<Shape, Finish>,
         {.blocks = {static_cast<unsigned>(plan.workers), static_cast<unsigned>(plan.splits)},
          .threads = Shape::threads,
          .shared_bytes = plan.shared_bytes,
          .dependent = true},
         product, finish, split_sums<float2>(context, plan.splits, plan.tasks, pairs));
}

}  // namespace qwen2::cuda
