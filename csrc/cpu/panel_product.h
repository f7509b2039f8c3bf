// x · Wᵀ for a weight packed in panels (cpu/kernel.h): the loop nest under linear and swiglu.
//
// A thread takes a panel and keeps a slice of it, 64 rows by 1,024 columns (128 KiB), in its L2 cache while it walks the
// tokens; a tile of a few tokens times the 64 rows stays in registers over the slice. With one token the panel is one
// contiguous stream, which is what bandwidth wants.
//
// Every sum is one chain over column pairs in order, whatever the tile: accumulators that leave the registers between
// slices come back as they were. So a token's result does not depend on the tokens beside it.
#pragma once

#include "cpu/simd.h"

namespace qwen2::cpu::QWEN2_SIMD {

// Tokens × vectors of rows in a register tile: accumulators, one column pair of the rows, and a broadcast.
constexpr int tile_tokens = lanes == 16 ? 6 : 4;
// For one token, more rows instead: several streams hide the latency of the chain.
template <int tokens>
constexpr int tile_vectors = lanes == 16 ? 4 : lanes == 8 ? (tokens == 1 ? 8 : 2) : (tokens == 1 ? 8 : 2);

constexpr int64_t slice_pairs = 512;
constexpr int64_t block_tokens = 512;

// acc[m][0 … 64) (+)= Σ over `pairs` column pairs of x[m] · panel, for `tokens` rows of x.
template <int tokens>
inline void multiply_tile(const bf16* panel, const bf16* x, int64_t x_stride, int64_t pairs, float* acc, bool fresh) {
  constexpr int vectors = tile_vectors<tokens>;
  for (int64_t row = 0; row < panel_rows; row += vectors * lanes) {
    F32 sums[tokens][vectors];
    for (int m = 0; m < tokens; ++m)
      for (int v = 0; v < vectors; ++v) sums[m][v] = fresh ? zero() : load(acc + m * panel_rows + row + v * lanes);
    const bf16* w = panel + row * 2;
    for (int64_t p = 0; p < pairs; ++p, w += panel_rows * 2) {
      Pairs weights[vectors];
      for (int v = 0; v < vectors; ++v) weights[v] = load_pairs(w + v * lanes * 2);
      for (int m = 0; m < tokens; ++m) {
        const Pairs token = splat_pair(x + m * x_stride + p * 2);
        for (int v = 0; v < vectors; ++v) sums[m][v] = dot(sums[m][v], weights[v], token);
      }
    }
    for (int m = 0; m < tokens; ++m)
      for (int v = 0; v < vectors; ++v) store(acc + m * panel_rows + row + v * lanes, sums[m][v]);
  }
}

inline void multiply_tile(int tokens, const bf16* panel, const bf16* x, int64_t x_stride, int64_t pairs, float* acc,
                          bool fresh) {
  switch (tokens) {
    case 1:
      return multiply_tile<1>(panel, x, x_stride, pairs, acc, fresh);
    case 2:
      return multiply_tile<2>(panel, x, x_stride, pairs, acc, fresh);
    case 3:
      return multiply_tile<3>(panel, x, x_stride, pairs, acc, fresh);
    case 4:
      return multiply_tile<4>(panel, x, x_stride, pairs, acc, fresh);
    case 5:
      return multiply_tile<5>(panel, x, x_stride, pairs, acc, fresh);
    default:
      return multiply_tile<6>(panel, x, x_stride, pairs, acc, fresh);
  }
}

// acc[m][0 … 64) += x[m][last column] · panel, where the number of columns is odd: x has no partner for it.
inline void multiply_odd_column(int64_t tokens, const bf16* panel_pair, const bf16* x, int64_t x_stride, float* acc) {
  for (int64_t m = 0; m < tokens; ++m) {
    const bf16 last[2] = {x[m * x_stride], {0}};
    multiply_tile<1>(panel_pair, last, 0, 1, acc + m * panel_rows, false);
  }
}

// One panel times `tokens` rows of x, in slices of columns.
inline void multiply_panel(const bf16* panel, const bf16* x, int64_t x_stride, int64_t tokens, int64_t columns,
                           float* acc) {
  const int64_t whole_pairs = columns / 2;
  const int64_t tiles = (tokens + tile_tokens - 1) / tile_tokens;
  if (whole_pairs == 0) __builtin_memset(acc, 0, static_cast<size_t>(tokens * panel_rows) * sizeof(float));
  for (int64_t p = 0; p < whole_pairs; p += slice_pairs) {
    const int64_t pairs = whole_pairs - p < slice_pairs ? whole_pairs - p : slice_pairs;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t first = tokens * tile / tiles, end = tokens * (tile + 1) / tiles;  // even tiles
      multiply_tile(static_cast<int>(end - first), panel + p * panel_rows * 2, x + first * x_stride + p * 2, x_stride,
                    pairs, acc + first * panel_rows, p == 0);
    }
  }
  if (columns % 2 != 0)
    multiply_odd_column(tokens, panel + whole_pairs * panel_rows * 2, x + columns - 1, x_stride, acc);
}

// Calls finish(panel index, first token, tokens, acc[tokens][64]) with every panel's products.
template <typename Finish>
inline void multiply_panels(Context& context, const Tensor& x, const bf16* weight, int64_t rows, const Finish& finish) {
  const int64_t tokens = x.shape[0], columns = x.shape[1];
  const int64_t count = panels(rows);
  if (tokens == 0) return;
  // Long runs for the prefetcher, and enough of them that a thread which lost its core does not hold up the others.
  const int64_t piece = count / (context.threads() * 8) > 0 ? count / (context.threads() * 8) : 1;
  parallel(context, count, piece, [&](int64_t begin, int64_t end, int worker) {
    const int64_t at_once = tokens < block_tokens ? tokens : block_tokens;
    auto* acc = static_cast<float*>(context.scratch(worker, static_cast<size_t>(at_once * panel_rows) * sizeof(float)));
    for (int64_t i = begin; i < end; ++i)
      for (int64_t t = 0; t < tokens; t += at_once) {
        const int64_t part = tokens - t < at_once ? tokens - t : at_once;
        multiply_panel(weight + i * panel_stride(columns), x.row<bf16>(t), x.strides[0], part, columns, acc);
        finish(i, t, part, acc);
      }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
