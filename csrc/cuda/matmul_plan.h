// Which kernel multiplies: a pure function of the shape and of the device.
//
// Five bands of T, in each of which the order of summation depends on N, K and the device only, so that a row gives the
// same bits for every T of its band: T ≤ 32 (skinny), 33 … 64, 65 … 128 and 129 … 256 (tiled, K split over blocks where
// tiles alone are too few), and 257 and more (tiled, whole K).
//
// Up to 128 tokens, and nearly so to 256, a product should take as long as its weights take to arrive: T tokens do T
// operations for a byte of weights, while the data sheet of an H200 has 206 for a byte of memory. What decides is
// counted here:
// - Bytes in flight. 4.8 TB/s · 1 µs over 132 multiprocessors is 36 KB each. Two blocks have 64 KB (128×128 and 64×64
//   deep) or 80 KB (128×64 deep) of weights on their way, and 40 to 64 KB of x. One block alone has half, so a plan
//   counts on two: 7B's o of 64 tokens is 28 tiles of 128 rows, which would take 28 of 264 places.
// - L2. For rows · k of weights a block reads tokens · k of x: 128×64 reads 1.5 bytes for a byte of weights, 64×64 two,
//   128×128 two for up to twice the tokens. Skinny tiles for 64 tokens would read three (32 rows; 64 do not fit in
//   registers), which no L2 gives at the speed of memory: that family ends at 32.
// - Partial sums. Split s ways, 4 · s · T · N bytes are written and read again, against 2 · N · K of weights: 0.14 each
//   way for 7B's o in four parts at 64 tokens, and 64 KB for the block that adds up a tile of 64×64.
// streamed_cost weighs them; no figure here is a measurement.
//
// A batch-invariant product has one order of summation for all T: that of the tiled family with K in as many parts as 64
// tokens want, each summed by itself and added up in their order, by blocks of their own or by one block that walks them.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace qwen2::cuda {

enum class MatmulKernel {
  skinny_16x8,
  skinny_32x16,
  skinny_32x32,
  tiled_64x64,
  tiled_64x64_deep,
  tiled_128x64,
  tiled_128x64_deep,
  tiled_128x128,
  walking_128x64
};

// What one block computes: weight rows × tokens.
struct MatmulTile {
  MatmulKernel kernel;
  const char* name;
  int rows, tokens;
};

// Skinny tiles take all tokens at once: up to here the weights' bytes are the limit.
constexpr int most_skinny_tokens = 32;

// More tokens meet more rows at a time, so that x is read from L2 less often than the weights are from memory.
constexpr MatmulTile skinny_tiles[] = {
    {MatmulKernel::skinny_16x8, "skinny 16x8", 16, 8},
    {MatmulKernel::skinny_32x16, "skinny 32x16", 32, 16},
    {MatmulKernel::skinny_32x32, "skinny 32x32", 32, 32},
};
// Of the band of most tokens.
constexpr MatmulTile tiled_tiles[] = {
    {MatmulKernel::tiled_128x128, "tiled 128x128", 128, 128},
    {MatmulKernel::tiled_128x64, "tiled 128x64", 128, 64},
    {MatmulKernel::tiled_64x64, "tiled 64x64", 64, 64},
};
// Of the bands between. Deep tiles have more in flight; with more tokens the products would pay for it, as fewer blocks
// find room on a multiprocessor.
constexpr MatmulTile streamed_tiles[] = {
    {MatmulKernel::tiled_128x128, "tiled 128x128", 128, 128},
    {MatmulKernel::tiled_128x64_deep, "tiled 128x64 deep", 128, 64},
    {MatmulKernel::tiled_64x64_deep, "tiled 64x64 deep", 64, 64},
};

// Of a block that walks parts of K: it keeps the sums of a part and those of all before it, so half a tile's registers.
constexpr MatmulTile walking_tile = {MatmulKernel::walking_128x64, "walking 128x64", 128, 64};

// K is divided at lines of 128 bytes of a weight row. The skinny kernel's warps take turns at them.
constexpr int matmul_slab = 64;
constexpr int skinny_warps = 8;

struct MatmulPlan {
  MatmulTile tile;
  int64_t row_blocks, token_blocks;
  int splits;     // of K over blocks
  int walks = 1;  // parts of K that a block sums by themselves, one after another; only where splits is 1
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks that a multiprocessor holds, of either family.
constexpr int matmul_resident = 2;
constexpr int most_splits = 16;

// As many as are resident at once, but a warp keeps four slabs or more: with less its loads are never all in flight,
// and adding up costs more than it gains. Of T it must not depend, so the 16 rows of the smallest tile count for all.
constexpr int skinny_splits(int64_t N, int64_t K, int multiprocessors) {
  const int64_t by_device = int64_t{matmul_resident} * multiprocessors / ceil_div(N, 16);
  const int64_t by_depth = ceil_div(K, matmul_slab) / (4 * skinny_warps);
  int64_t splits = by_device < by_depth ? by_device : by_depth;
  if (splits > most_splits) splits = most_splits;
  return splits < 1 ? 1 : static_cast<int>(splits);
}

// How long a tiled kernel takes, in an arbitrary unit: blocks on one multiprocessor share its tensor cores, so the one
// with most blocks decides; a block costs its products and, for smaller tiles relatively more, the loads of its
// operands.
constexpr int64_t tiled_cost(const MatmulTile& tile, int64_t T, int64_t N, int multiprocessors) {
  const int64_t blocks = ceil_div(N, tile.rows) * ceil_div(T, tile.tokens);
  return ceil_div(blocks, multiprocessors) * (tile.rows * tile.tokens + 32 * (tile.rows + tile.tokens));
}

// The last T of T's band, or 0 beyond the bands in which K may be split.
constexpr int64_t streamed_band(int64_t T) { return T <= 64 ? 64 : T <= 128 ? 128 : T <= 256 ? 256 : 0; }

constexpr int64_t most_partial_bytes = 64 << 20;  // of workspace; most of it finds room in L2

constexpr bool may_split(int64_t tiles, int64_t T, int64_t N, int64_t K, int splits, int multiprocessors) {
  constexpr int64_t fewest_slabs = 4;                // of a part, or its ring is never full
  constexpr int64_t most_waves = 4;                  // of whole tiles: the last one then matters little
  return splits <= most_splits && ceil_div(K, matmul_slab) / splits >= fewest_slabs &&
         tiles < most_waves * matmul_resident * multiprocessors && 4 * splits * T * N <= most_partial_bytes;
}

// How long the bands between take, in products on one multiprocessor: 1,024 a clock, while L2 gives it 32 bytes. A block
// goes at one pace whether it has company or not, as what it has in flight is what limits it. Partial sums are written
// by all, then read by the last block of each tile.
constexpr int64_t streamed_cost(const MatmulTile& tile, int64_t T, int64_t N, int64_t K, int splits,
                                int multiprocessors) {
  const int64_t tiles = ceil_div(N, tile.rows) * ceil_div(T, tile.tokens), products = tile.rows * tile.tokens;
  const int64_t blocks = matmul_resident * ceil_div(tiles * splits, matmul_resident * multiprocessors);
  const int64_t part = ceil_div(ceil_div(K, matmul_slab), splits) * matmul_slab;
  const int64_t loads = 2 * (tile.rows + tile.tokens) * 1024 / 32;
  const int64_t sums = splits == 1 ? 0 : products * (blocks + splits * ceil_div(tiles, multiprocessors));
  return blocks * part * (products > loads ? products : loads) + sums * 4 * 1024 / 32;
}

// With as many splits as are best, or `pinned` ones.
constexpr MatmulPlan streamed_plan(int64_t T, int64_t N, int64_t K, int multiprocessors, int pinned = 0) {
  const int64_t band = streamed_band(T);
  const MatmulTile* best = nullptr;
  int64_t best_cost = 0;
  int best_splits = 1;
  for (const MatmulTile& tile : streamed_tiles) {
    const int64_t tiles = ceil_div(N, tile.rows) * ceil_div(band, tile.tokens);
    const auto may_be = [&](int splits) {
      return pinned == 0 ? splits == 1 || may_split(tiles, band, N, K, splits, multiprocessors) : splits == pinned;
    };
    for (int splits = pinned == 0 ? 1 : pinned; may_be(splits); ++splits) {
      const int64_t cost = streamed_cost(tile, band, N, K, splits, multiprocessors);
      if (best != nullptr && cost >= best_cost) continue;
      best = &tile;
      best_cost = cost;
      best_splits = splits;
    }
  }
  return {*best, ceil_div(N, best->rows), ceil_div(T, best->tokens), best_splits};
}

// Of more tokens than a streamed band has: whole K.
constexpr MatmulPlan tiled_plan(int64_t T, int64_t N, int multiprocessors) {
  const MatmulTile* best = tiled_tiles;
  for (const MatmulTile& tile : tiled_tiles)
    if (tiled_cost(tile, T, N, multiprocessors) < tiled_cost(*best, T, N, multiprocessors)) best = &tile;
  return {*best, ceil_div(N, best->rows), ceil_div(T, best->tokens), 1};
}

// T, N, multiprocessors ≥ 1.
constexpr MatmulPlan matmul_plan(int64_t T, int64_t N, int64_t K, int multiprocessors) {
  if (T <= most_skinny_tokens) {
    const MatmulTile& tile = skinny_tiles[T <= 8 ? 0 : T <= 16 ? 1 : 2];
    return {tile, ceil_div(N, tile.rows), 1, skinny_splits(N, K, multiprocessors)};
  }
  return streamed_band(T) != 0 ? streamed_plan(T, N, K, multiprocessors) : tiled_plan(T, N, multiprocessors);
}

// --- One order for all T ---------------------------------------------------------------------------------------------

// Of the order of summation: how many parts K is cut into.
constexpr int invariant_parts(int64_t N, int64_t K, int multiprocessors) {
  return streamed_plan(1, N, K, multiprocessors).splits;
}

// Parts are blocks of their own up to 256 tokens, if the device has room for their sums; a block walks them beyond.
constexpr MatmulPlan invariant_plan(int64_t T, int64_t N, int64_t K, int multiprocessors) {
  const int parts = invariant_parts(N, K, multiprocessors);
  const int64_t band = streamed_band(T);
  if (parts == 1) return band == 0 ? tiled_plan(T, N, multiprocessors) : streamed_plan(T, N, K, multiprocessors, parts);
  if (band != 0) {
    const MatmulPlan split = streamed_plan(T, N, K, multiprocessors, parts);
    if (may_split(split.row_blocks * ceil_div(band, split.tile.tokens), band, N, K, parts, multiprocessors)) return split;
  }
  return {walking_tile, ceil_div(N, walking_tile.rows), ceil_div(T, walking_tile.tokens), 1, parts};
}

// --- What a plan promises, on the shapes of Qwen2 and the sizes of GPUs ----------------------------------------------

constexpr bool covers(const MatmulPlan& plan, int64_t T, int64_t N) {
  const int64_t rows = plan.row_blocks * plan.tile.rows, tokens = plan.token_blocks * plan.tile.tokens;
  return rows >= N && rows - plan.tile.rows < N && tokens >= T && tokens - plan.tile.tokens < T;
}

// Bits do not depend on T within a band, every part of K has work, and prefill is never split.
constexpr bool matmul_plan_is_sound(int64_t T, int64_t N, int64_t K, int multiprocessors) {
  const MatmulPlan plan = matmul_plan(T, N, K, multiprocessors);
  if (!covers(plan, T, N) || plan.splits < 1 || plan.splits > ceil_div(K, matmul_slab)) return false;
  if (T <= most_skinny_tokens) return plan.token_blocks == 1 && plan.splits == skinny_splits(N, K, multiprocessors);
  const int64_t band = streamed_band(T);
  return plan.splits == (band == 0 ? 1 : matmul_plan(band, N, K, multiprocessors).splits);
}

// All T have the same parts, each of which has work, and partial sums find room.
constexpr bool invariant_plan_is_sound(int64_t T, int64_t N, int64_t K, int multiprocessors) {
  const MatmulPlan plan = invariant_plan(T, N, K, multiprocessors);
  const int parts = invariant_parts(N, K, multiprocessors);
  const int64_t sums = plan.splits == 1 ? 0 : plan.splits * plan.row_blocks * plan.tile.rows * plan.token_blocks * plan.tile.tokens;
  return covers(plan, T, N) && plan.tile.tokens >= 64 && plan.splits * plan.walks == parts &&
         parts <= ceil_div(K, matmul_slab) && (plan.splits == 1 || plan.walks == 1) && 4 * sums <= 2 * most_partial_bytes;
}

constexpr bool matmul_plans_are_sound(int64_t N, int64_t K) {
  for (int multiprocessors : {1, 3, 16, 108, 132})
    for (int64_t T : {1, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 1000, 8192})
      if (!matmul_plan_is_sound(T, N, K, multiprocessors) || !invariant_plan_is_sound(T, N, K, multiprocessors))
        return false;
  return true;
}

// Less than 8 MB of weights, a few microseconds, are too little to keep a GPU busy with.
constexpr int64_t least_that_matters = int64_t{4} << 20;  // N · K

// At least 0.85 of the multiprocessors have work, in every wave but the last even two blocks each, and over all waves
// half of the places are taken.
constexpr bool matmul_fills(int64_t N, int64_t K) {
  if (N * K < least_that_matters) return true;
  for (int64_t multiprocessors : {108, 132})
    for (int64_t T : {33, 64, 65, 128, 129, 256}) {
      const MatmulPlan plan = matmul_plan(T, N, K, static_cast<int>(multiprocessors));
      const int64_t blocks = plan.row_blocks * plan.token_blocks * plan.splits;
      const int64_t places = matmul_resident * multiprocessors;
      if (100 * blocks < 85 * multiprocessors || 2 * blocks < places * ceil_div(blocks, places)) return false;
    }
  return true;
}

static_assert(matmul_plans_are_sound(16, 8) && matmul_plans_are_sound(896, 4864) && matmul_plans_are_sound(9728, 896) &&
              matmul_plans_are_sound(3584, 18944) && matmul_plans_are_sound(59136, 8192) &&
              matmul_plans_are_sound(8192, 29568) && matmul_plans_are_sound(152064, 8192));
static_assert(skinny_splits(896, 4864, 132) == 2 && skinny_splits(896, 896, 132) == 1 &&
              skinny_splits(152064, 8192, 132) == 1 && skinny_splits(16, 1 << 20, 132) == most_splits);
// What the tests of linear and swiglu count on, on emulated devices.
constexpr bool splits_on_small_devices(int64_t T, int64_t N, int64_t K) {
  for (int multiprocessors : {2, 3, 7})
    if (matmul_plan(T, N, K, multiprocessors).splits < 2) return false;
  return true;
}
static_assert(splits_on_small_devices(40, 80, 1032) && splits_on_small_devices(64, 80, 1032) &&
              splits_on_small_devices(100, 80, 1544) && splits_on_small_devices(128, 144, 2056) &&
              splits_on_small_devices(150, 80, 2056));

static_assert(invariant_plan(1, 80, 1032, 3).splits > 1 && invariant_plan(300, 80, 1032, 3).walks > 1);

// qkv, o, gate and up, down and the LM head of 0.5B, 1.5B, 7B and 72B.
static_assert(matmul_fills(1152, 896) && matmul_fills(896, 896) && matmul_fills(9728, 896) &&
              matmul_fills(896, 4864) && matmul_fills(151936, 896));
static_assert(matmul_fills(2048, 1536) && matmul_fills(1536, 1536) && matmul_fills(17920, 1536) &&
              matmul_fills(1536, 8960) && matmul_fills(151936, 1536));
static_assert(matmul_fills(4608, 3584) && matmul_fills(3584, 3584) && matmul_fills(37888, 3584) &&
              matmul_fills(3584, 18944) && matmul_fills(152064, 3584));
static_assert(matmul_fills(10240, 8192) && matmul_fills(8192, 8192) && matmul_fills(59136, 8192) &&
              matmul_fills(8192, 29568) && matmul_fills(152064, 8192));

}  // namespace qwen2::cuda
