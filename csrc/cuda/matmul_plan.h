// Which kernel multiplies: a pure function of the shape and of the device. The order of summation depends on N, K, the
// device and the family only, never on the tile or on T within a family.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace qwen2::cuda {

enum class MatmulKernel { skinny_16x8, skinny_32x16, skinny_32x32, tiled_64x64, tiled_128x64, tiled_128x128 };

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
constexpr MatmulTile tiled_tiles[] = {
    {MatmulKernel::tiled_128x128, "tiled 128x128", 128, 128},
    {MatmulKernel::tiled_128x64, "tiled 128x64", 128, 64},
    {MatmulKernel::tiled_64x64, "tiled 64x64", 64, 64},
};

// The skinny kernel's unit of K is a line of 128 bytes of a weight row; its warps take turns.
constexpr int skinny_slab = 64;
constexpr int skinny_warps = 8;

struct MatmulPlan {
  MatmulTile tile;
  int64_t row_blocks, token_blocks;
  int splits;  // of K over blocks
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of the skinny family that a multiprocessor holds.
constexpr int skinny_resident = 2;
constexpr int most_splits = 16;

// As many as are resident at once, but a warp keeps four slabs or more: with less its loads are never all in flight,
// and adding up costs more than it gains. Of T it must not depend, so the 16 rows of the smallest tile count for all.
constexpr int skinny_splits(int64_t N, int64_t K, int multiprocessors) {
  const int64_t by_device = int64_t{skinny_resident} * multiprocessors / ceil_div(N, 16);
  const int64_t by_depth = ceil_div(K, skinny_slab) / (4 * skinny_warps);
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

// T, N, multiprocessors ≥ 1.
constexpr MatmulPlan matmul_plan(int64_t T, int64_t N, int64_t K, int multiprocessors) {
  if (T <= most_skinny_tokens) {
    const MatmulTile& tile = skinny_tiles[T <= 8 ? 0 : T <= 16 ? 1 : 2];
    return {tile, ceil_div(N, tile.rows), 1, skinny_splits(N, K, multiprocessors)};
  }
  const MatmulTile* best = tiled_tiles;
  for (const MatmulTile& tile : tiled_tiles)
    if (tiled_cost(tile, T, N, multiprocessors) < tiled_cost(*best, T, N, multiprocessors)) best = &tile;
  return {*best, ceil_div(N, best->rows), ceil_div(T, best->tokens), 1};
}

// --- What a plan promises, on the shapes of Qwen2 and the sizes of GPUs ----------------------------------------------

constexpr bool covers(const MatmulPlan& plan, int64_t T, int64_t N) {
  const int64_t rows = plan.row_blocks * plan.tile.rows, tokens = plan.token_blocks * plan.tile.tokens;
  return rows >= N && rows - plan.tile.rows < N && tokens >= T && tokens - plan.tile.tokens < T;
}

constexpr bool matmul_plans_are_sound(int64_t N, int64_t K) {
  for (int multiprocessors : {1, 3, 16, 108, 132})
    for (int64_t T : {1, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 1000, 8192}) {
      const MatmulPlan plan = matmul_plan(T, N, K, multiprocessors);
      const bool skinny = T <= most_skinny_tokens;
      if (!covers(plan, T, N) || plan.splits != (skinny ? skinny_splits(N, K, multiprocessors) : 1)) return false;
      if (skinny && plan.token_blocks != 1) return false;
    }
  return true;
}

static_assert(matmul_plans_are_sound(16, 8) && matmul_plans_are_sound(896, 4864) && matmul_plans_are_sound(9728, 896) &&
              matmul_plans_are_sound(3584, 18944) && matmul_plans_are_sound(59136, 8192) &&
              matmul_plans_are_sound(8192, 29568) && matmul_plans_are_sound(152064, 8192));
static_assert(skinny_splits(896, 4864, 132) == 2 && skinny_splits(896, 896, 132) == 1 &&
              skinny_splits(152064, 8192, 132) == 1 && skinny_splits(16, 1 << 20, 132) == most_splits);

}  // namespace qwen2::cuda
