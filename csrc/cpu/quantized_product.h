// x · Wᵀ for a quantized weight (cpu/quantized.h): the loop nest under linear_int4, swiglu_int4 and linear_int8.
//
// A thread takes a panel and walks its groups of columns; a group, 4 to 8 KiB, stays in the L1 cache while the tokens pass
// in tiles of a few. Weights are unpacked in registers, anew for each tile: that runs beside the products, on units of the
// processor which these leave idle. Between groups the sums wait in memory, as fp32.
//
// The sum of a group is exact where x is rounded to 8 bits, and otherwise one chain in the order of steps; groups are added
// in order, by one fma each. So a token's result does not depend on the tokens beside it.
#pragma once

#include "cpu/quantized_activations.h"

namespace qwen2::cpu::QWEN2_SIMD {

// With x rounded: integer sums of bytes.
struct Rounded {
  using Operand = Words;
  using Sum = I32;
  static constexpr bool rounds_x = true;

  static Sum none() { return splat_int(0); }
  static Operand splat_step(const uint32_t* p) { return splat_word(p); }
  static F32 number(Sum sum) { return to_floats(sum); }
};

// With x as it is: fp32 sums of bf16.
struct Exact {
  using Operand = Pairs;
  using Sum = F32;
  static constexpr bool rounds_x = false;

  static Sum none() { return zero(); }
  static Operand splat_step(const uint32_t* p) { return splat_pair(reinterpret_cast<const bf16*>(p)); }
  static Sum dot(Sum sum, Operand w, Operand x) { return qwen2::cpu::QWEN2_SIMD::dot(sum, w, x); }
  static F32 number(Sum sum) { return sum; }
};

// What words of a weight are unpacked to, an operand for each of the `steps` of x that they meet, and the zeros of rows.
struct RoundedInt4 : Rounded {
  static constexpr int steps = 2;
  static F32 zeros(const uint8_t* p) { return to_floats(widen_bytes(p)); }
  static Sum dot(Sum sum, Operand w, Operand x) { return dot_nibbles(sum, w, x); }
  static void unpack(const uint32_t* p, Operand (&to)[steps]) {
    const Words words = load_words(p);
    to[0] = low_nibbles(words);
    to[1] = high_nibbles(words);
  }
};

struct RoundedInt8 : Rounded {
  static constexpr int steps = 1;
  static F32 zeros(const uint8_t*) { return splat(int8_zero); }
  static Sum dot(Sum sum, Operand w, Operand x) { return dot_bytes(sum, w, x); }
  static void unpack(const uint32_t* p, Operand (&to)[steps]) { to[0] = load_words(p); }
};

struct ExactInt4 : Exact {
  static constexpr int steps = 4;
  static F32 zeros(const uint8_t* p) { return to_floats(widen_bytes(p)); }
  static void unpack(const uint32_t* p, Operand (&to)[steps]) {
    const Words words = load_words(p);
    to[0] = nibble_pairs<0>(words);
    to[1] = nibble_pairs<1>(words);
    to[2] = nibble_pairs<2>(words);
    to[3] = nibble_pairs<3>(words);
  }
};

struct ExactInt8 : Exact {
  static constexpr int steps = 2;
  static F32 zeros(const uint8_t*) { return zero(); }  // byte_pairs takes it away
  static void unpack(const uint32_t* p, Operand (&to)[steps]) {
    const Words words = load_words(p);
    to[0] = byte_pairs<0>(words);
    to[1] = byte_pairs<1>(words);
  }
};

// Tokens × vectors of rows in a register tile: their sums, operands of each vector, and a broadcast. One token takes all
// rows of a panel, whatever the registers, because memory is then read in order.
constexpr int quantized_tile = 4;
template <int tokens>
constexpr int quantized_vectors = tokens == 1 || lanes == 16 ? quantized_rows / lanes : 2;

constexpr int64_t quantized_block = 512;  // tokens

// What a tile takes of a group's activations, and the sums that it adds to.
struct Tile {
  const uint32_t* x;  // [tokens][steps]
  int64_t steps;
  const float* scales;      // [tokens]
  const float* minus_sums;  // [tokens]
  float* acc;               // [tokens][64]
  bool fresh;               // acc holds nothing yet
  int64_t ahead;            // words to what is multiplied next
};

// acc[m] (+)= scales · (Σ of x[m] · words − zeros · Σ x[m]) over a group of `count` words a row, for `tokens` tokens.
template <typename Product, int tokens>
inline void multiply_tile(const QuantizedGroup& group, int64_t count, const Tile& tile) {
  constexpr int vectors = quantized_vectors<tokens>, steps = Product::steps;
  for (int64_t row = 0; row < quantized_rows; row += vectors * lanes) {
    typename Product::Sum sums[tokens][vectors];
    for (int m = 0; m < tokens; ++m)
      for (int v = 0; v < vectors; ++v) sums[m][v] = Product::none();
    const uint32_t* words = group.words + row;
    const uint32_t* x = tile.x;
    for (int64_t i = 0; i < count; ++i, words += quantized_rows, x += steps) {
      typename Product::Operand operands[vectors][steps];
      for (int v = 0; v < vectors; ++v) {
        Product::unpack(words + v * lanes, operands[v]);
        __builtin_prefetch(words + v * lanes + tile.ahead);
      }
      for (int s = 0; s < steps; ++s)
        for (int m = 0; m < tokens; ++m) {
          const auto step = Product::splat_step(x + m * tile.steps + s);
          for (int v = 0; v < vectors; ++v) sums[m][v] = Product::dot(sums[m][v], operands[v][s], step);
        }
    }
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      const F32 scales = load(group.scales + row + v * lanes), zeros = Product::zeros(group.zeros + row + v * lanes);
#pragma GCC unroll 4
      for (int m = 0; m < tokens; ++m) {
        float* acc = tile.acc + m * quantized_rows + row + v * lanes;
        const F32 sum = fma(zeros, splat(tile.minus_sums[m]), Product::number(sums[m][v]));
        store(acc, fma(mul(scales, splat(tile.scales[m])), sum, tile.fresh ? zero() : load(acc)));
      }
    }
  }
}

template <typename Product>
inline void multiply_tile(int64_t tokens, const QuantizedGroup& group, int64_t count, const Tile& tile) {
  switch (tokens) {
    case 1:
      return multiply_tile<Product, 1>(group, count, tile);
    case 2:
      return multiply_tile<Product, 2>(group, count, tile);
    case 3:
      return multiply_tile<Product, 3>(group, count, tile);
    default:
      return multiply_tile<Product, 4>(group, count, tile);
  }
}

// One panel times tokens [first, first + tokens) of x.
template <typename Product>
inline void multiply_panel(const QuantizedWeight& weight, int64_t panel, const Activations& x, int64_t first,
                           int64_t tokens, float* acc) {
  const int64_t tiles = (tokens + quantized_tile - 1) / quantized_tile;
  // Where one tile reads memory in order, the processor is ahead by itself.
  const bool in_order = tiles == 1 && (tokens == 1 || lanes == 16);
  const int64_t ahead = in_order ? 0 : quantized_group_bytes(weight.dtype, weight.group) / 4;
  for (int64_t g = 0; g < weight.groups; ++g)
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t begin = tokens * i / tiles, end = tokens * (i + 1) / tiles;  // even tiles
      const int64_t at = g * x.tokens + first + begin;
      const Tile tile{x.x + at * x.steps,  x.steps, x.scales + at, x.minus_sums + at, acc + begin * quantized_rows,
                      g == 0, ahead};
      multiply_tile<Product>(end - begin, weight.at(panel, g), weight.words_of_group(), tile);
    }
}

// Calls finish(panel index, first token, tokens, acc[tokens][64]) with every panel's products.
template <typename Product, typename Finish>
inline void multiply_quantized(Context& context, const Tensor& x, const Tensor& packed, const Finish& finish) {
  const QuantizedWeight weight(packed);
  const int64_t tokens = x.shape[0], count = weight.panels();
  if (tokens == 0) return;
  const auto rows_of_x = activations<Product::rounds_x>(context, x, weight);
  const int64_t at_once = tokens < quantized_block ? tokens : quantized_block;
  // Long runs for the prefetcher, and enough of them that a thread which lost its core does not hold up the others.
  const int64_t piece = count / (context.threads() * 8) > 0 ? count / (context.threads() * 8) : 1;
  parallel(context, count, piece, [&](int64_t begin, int64_t end, int worker) {
    auto* acc = static_cast<float*>(context.scratch(worker, static_cast<size_t>(at_once * quantized_rows) * sizeof(float)));
    for (int64_t i = begin; i < end; ++i)
      for (int64_t t = 0; t < tokens; t += at_once) {
        const int64_t part = tokens - t < at_once ? tokens - t : at_once;
        multiply_panel<Product>(weight, i, rows_of_x, t, part, acc);
        finish(i, t, part, acc);
      }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
