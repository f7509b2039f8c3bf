// How the products of quantized weights are shared out: pure functions of the shape and of the device.
//
// Two families, each with one order of summation. Few tokens, up to 32 (quantized_skinny.h): K is cut into parts, whose
// number depends on the weight and the device, and whose sums meet in a tree; how many parts a block takes is free. More
// tokens (quantized_tiled.h): three bands of T in which K is split over blocks, and beyond them whole K.
#pragma once

#include <cstddef>

#include "cuda/matmul_plan.h"
#include "cuda/quantized.h"

namespace qwen2::cuda {

// --- Few tokens ------------------------------------------------------------------------------------------------------

constexpr int quantized_warps = 16;  // of a block, which has a multiprocessor for itself
constexpr int flight_bytes = 4096;   // that a warp has in flight, and multiplies in a turn: 64 KB a multiprocessor
// Tokens of a block: with four scale groups more do not fit in registers.
constexpr int most_quantized_tokens(int scale_groups) { return scale_groups == 1 ? 32 : 16; }

// A turn's units. Four scale groups need the registers of half of them.
constexpr int turn_units(int unit_bytes, int scale_groups) {
  return flight_bytes / unit_bytes / (scale_groups == 1 ? 1 : 2);
}

// Of what one weight and one device have in common: the order of summation.
struct QuantizedParts {
  int64_t row_groups, units;
  int parts;  // of K: a power of two
  int turns;  // of a warp, for the longest part
};

// The number of parts with the least time, counted in turns: blocks go through their tasks in rounds, of which each costs
// its turns and a sixteenth of one for the meeting at its end, during which the next turn's loads are on their way. Of
// equal ones the most parts.
constexpr QuantizedParts quantized_parts(const QuantizedLayout& layout, int multiprocessors) {
  const int64_t turn = turn_units(layout.unit_bytes, layout.scale_groups);
  QuantizedParts best{};
  int64_t best_cost = 0;
  for (int parts = quantized_warps; parts >= 1; parts /= 2) {
    const int64_t turns = ceil_div(ceil_div(layout.units, parts), turn);
    const int64_t rounds = ceil_div(ceil_div(layout.row_groups * parts, quantized_warps), multiprocessors);
    const int64_t cost = rounds * (16 * turns + 1);
    if (best.parts != 0 && cost >= best_cost) continue;
    best = {layout.row_groups, layout.units, parts, static_cast<int>(turns)};
    best_cost = cost;
  }
  return best;
}

// What of it a launch does: `tokens` tokens, blocks of `together` parts, which hold their x in shared memory.
struct QuantizedSkinnyPlan {
  int64_t tokens;  // 0: x does not fit
  int token_tiles, together, splits;
  int64_t tasks, workers;  // row groups, 16 / together at a time; and the blocks that share them, of each split
  size_t shared_bytes;
};

// Sums of all warps; x, and its sums for each scale group.
constexpr size_t quantized_shared_bytes(int64_t units, int scale_groups, int64_t tokens, int token_tiles) {
  const int64_t stored = token_tiles == 1 ? tokens : 8 * token_tiles;
  return static_cast<size_t>(quantized_warps * token_tiles * 4 * 32 * 4 + 16 +
                             units * (quantized_unit * stored * 2 + scale_groups * token_tiles * 8 * 4));
}

// A power of two of parts is a subtree: however many a block holds, the sums are the same.
constexpr QuantizedSkinnyPlan quantized_skinny_plan(int64_t T, const QuantizedParts& parts, int scale_groups,
                                                    int multiprocessors, size_t shared_bytes) {
  for (int64_t blocks = ceil_div(T, most_quantized_tokens(scale_groups));; ++blocks) {
    const int64_t tokens = ceil_div(T, blocks);
    const int token_tiles = tokens <= 8 ? 1 : tokens <= 16 ? 2 : 4;
    for (int together = parts.parts; together >= 1; together /= 2) {
      const int64_t units = ceil_div(parts.units * together, parts.parts);
      const size_t bytes = quantized_shared_bytes(units, scale_groups, tokens, token_tiles);
      if (bytes > shared_bytes) continue;
      const int64_t tasks = ceil_div(parts.row_groups * together, quantized_warps);
      const int splits = parts.parts / together;
      const int64_t share = multiprocessors / splits;
      return {tokens, token_tiles, together, splits, tasks, share < 1 ? 1 : share < tasks ? share : tasks, bytes};
    }
    if (tokens == 1) return {};
  }
}

// --- More tokens -----------------------------------------------------------------------------------------------------

constexpr int quantized_tile_tokens = 64;
constexpr int quantized_tile_rows(int scale_groups) { return scale_groups == 1 ? 256 : 128; }

// Blocks on one multiprocessor come one after another; one costs its units and, for the beginning and for adding up, two
// units more.
constexpr int quantized_splits(int64_t T, int64_t rows, int64_t units, int tile_rows, int multiprocessors) {
  const int64_t band = streamed_band(T);
  const int64_t tiles = ceil_div(rows, tile_rows) * ceil_div(band, quantized_tile_tokens);
  int best = 1;
  int64_t best_cost = 0;
  for (int splits = 1; splits == 1 || (band != 0 && splits <= most_splits && units / splits >= 4); ++splits) {
    const int64_t cost = ceil_div(tiles * splits, multiprocessors) * (ceil_div(units, splits) + 2);
    if (best_cost != 0 && cost >= best_cost) continue;
    best = splits;
    best_cost = cost;
  }
  return best;
}

// --- What a plan promises, on the shapes of Qwen2 and the sizes of GPUs ----------------------------------------------

struct QuantizedDevice {
  int multiprocessors;
  size_t shared_bytes;
};
constexpr QuantizedDevice quantized_devices[] = {{132, 227 << 10}, {108, 163 << 10}, {84, 99 << 10}, {3, 99 << 10}};

// Every T finds a block's room and every part of K a block, and parts do not depend on T.
constexpr bool quantized_plans_are_sound(int64_t N, int64_t K, DType dtype = DType::int4) {
  for (const auto& [multiprocessors, shared_bytes] : quantized_devices)
    for (int group : {32, 128}) {
      const QuantizedLayout layout(dtype, N, K, group);
      const QuantizedParts parts = quantized_parts(layout, multiprocessors);
      for (int64_t T : {1, 2, 8, 9, 16, 17, 32, 150}) {
        const QuantizedSkinnyPlan plan =
            quantized_skinny_plan(T, parts, layout.scale_groups, multiprocessors, shared_bytes);
        if (plan.tokens < 1 || plan.tokens > 8 * plan.token_tiles || plan.splits * plan.together != parts.parts ||
            plan.tasks * (quantized_warps / plan.together) < layout.row_groups || plan.shared_bytes > shared_bytes)
          return false;
      }
      for (int64_t T : {33, 64, 65, 128, 129, 256, 257, 8192}) {
        const int rows = quantized_tile_rows(layout.scale_groups);
        const int splits = quantized_splits(T, N, layout.units, rows, multiprocessors);
        const int64_t band = streamed_band(T);
        if (splits > layout.units ||
            splits != (band == 0 ? 1 : quantized_splits(band, N, layout.units, rows, multiprocessors)))
          return false;
      }
    }
  return true;
}

// On an H200 a step of one token leaves no partial sums in memory, and nine tenths of the warps' turns have work.
constexpr bool quantized_fills(int64_t N, int64_t K, DType dtype = DType::int4) {
  const auto [multiprocessors, shared_bytes] = quantized_devices[0];
  const QuantizedLayout layout(dtype, N, K, 128);
  const QuantizedParts parts = quantized_parts(layout, multiprocessors);
  const QuantizedSkinnyPlan plan = quantized_skinny_plan(1, parts, 1, multiprocessors, shared_bytes);
  const int64_t turns = ceil_div(plan.tasks, plan.workers) * multiprocessors * quantized_warps * parts.turns;
  return plan.splits == 1 && 10 * layout.all_units() >= 9 * turns * turn_units(layout.unit_bytes, 1);
}

// qkv, o, gate and up, down and the LM head of 0.5B, 7B and 72B.
static_assert(quantized_plans_are_sound(1152, 896) && quantized_plans_are_sound(896, 896) &&
              quantized_plans_are_sound(9728, 896) && quantized_plans_are_sound(896, 4864) &&
              quantized_plans_are_sound(151936, 896, DType::int8));
static_assert(quantized_plans_are_sound(4608, 3584) && quantized_plans_are_sound(3584, 3584) &&
              quantized_plans_are_sound(37888, 3584) && quantized_plans_are_sound(3584, 18944) &&
              quantized_plans_are_sound(152064, 3584, DType::int8));
static_assert(quantized_plans_are_sound(10240, 8192) && quantized_plans_are_sound(8192, 8192) &&
              quantized_plans_are_sound(59392, 8192) && quantized_plans_are_sound(8192, 29696) &&
              quantized_plans_are_sound(152064, 8192, DType::int8));
static_assert(quantized_fills(10240, 8192) && quantized_fills(8192, 8192) && quantized_fills(59392, 8192) &&
              quantized_fills(8192, 29696) && quantized_fills(152064, 8192, DType::int8));

// What tests count on, on emulated devices: K is split where it is long, for few tokens and for many.
static_assert(quantized_skinny_plan(31, quantized_parts({DType::int4, 40, 4224, 128}, 3), 1, 3, 99 << 10).splits > 1);
static_assert(quantized_splits(64, 80, 9, 128, 3) > 1 && quantized_splits(128, 80, 13, 128, 3) > 1 &&
              quantized_splits(256, 80, 17, 128, 3) > 1);

}  // namespace qwen2::cuda
