// x · Wᵀ for a quantized weight (cpu/quantized.h): the loop nest under linear_int4, swiglu_int4 and linear_int8.
//
// A thread takes a panel and walks its groups of columns; within one, sums of a tile of a few tokens times 64 rows stay in
// registers. For more than a few tokens the group is first unpacked, into 8 or 16 KiB that stay in the L1 cache over all
// tiles. Between groups the sums wait in memory as fp32.
//
// The sum of a group is exact where x is rounded to 8 bits, and otherwise one chain in the order of steps; groups are added
// in order, by one fma each. So a token's result depends neither on the tile it is in nor on how weights are unpacked.
#pragma once

#include "cpu/quantized_activations.h"

namespace qwen2::cpu::QWEN2_SIMD {

// With x rounded: integer sums of bytes.
struct Rounded {
  using Operand = Words;
  using Sum = I32;
  using XSum = int32_t;

  static Operand load_operand(const uint32_t* p) { return load_words(p); }
  static void store_operand(uint32_t* p, Operand x) { store_words(p, x); }
  static Operand splat_step(const uint32_t* p) { return splat_word(p); }
  static Sum start(I32 zeros, XSum minus_sum) { return multiply_short(zeros, splat_int(minus_sum)); }
  static F32 finish(Sum sum, I32, XSum, F32 scales, float x_scale, F32 acc) {
    return fma(mul(scales, splat(x_scale)), to_floats(sum), acc);
  }
};

// With x as it is: fp32 sums of bf16.
struct Exact {
  using Operand = Pairs;
  using Sum = F32;
  using XSum = float;

  static Operand load_operand(const uint32_t* p) { return load_pairs(reinterpret_cast<const bf16*>(p)); }
  static void store_operand(uint32_t* p, Operand x) { store_pairs(reinterpret_cast<bf16*>(p), x); }
  static Operand splat_step(const uint32_t* p) { return splat_pair(reinterpret_cast<const bf16*>(p)); }
  static Sum start(I32, XSum) { return zero(); }
  static Sum dot(Sum sum, Operand w, Operand x) { return qwen2::cpu::QWEN2_SIMD::dot(sum, w, x); }
  static F32 finish(Sum sum, I32 zeros, XSum minus_sum, F32 scales, float, F32 acc) {
    return fma(scales, fma(to_floats(zeros), splat(minus_sum), sum), acc);
  }
};

// What a word of a weight is unpacked to: an operand for each of the `steps` of x that it meets.
struct RoundedInt4 : Rounded {
  static constexpr int steps = 2;
  static I32 zeros(const uint8_t* p) { return widen_bytes(p); }
  static Sum dot(Sum sum, Operand w, Operand x) { return dot_nibbles(sum, w, x); }
  static void unpack(const uint32_t* p, Operand (&to)[steps]) {
    const Words word = load_words(p);
    to[0] = low_nibbles(word);
    to[1] = high_nibbles(word);
  }
};

struct RoundedInt8 : Rounded {
  static constexpr int steps = 1;
  static I32 zeros(const uint8_t*) { return splat_int(int8_zero); }
  static Sum dot(Sum sum, Operand w, Operand x) { return dot_bytes(sum, w, x); }
  static void unpack(const uint32_t* p, Operand (&to)[steps]) { to[0] = load_words(p); }
};

struct ExactInt4 : Exact {
  static constexpr int steps = 4;
  static I32 zeros(const uint8_t* p) { return widen_bytes(p); }
  static void unpack(const uint32_t* p, Operand (&to)[steps]) {
    const Words word = load_words(p);
    to[0] = nibble_pairs<0>(word);
    to[1] = nibble_pairs<1>(word);
    to[2] = nibble_pairs<2>(word);
    to[3] = nibble_pairs<3>(word);
  }
};

struct ExactInt8 : Exact {
  static constexpr int steps = 2;
  static I32 zeros(const uint8_t*) { return splat_int(0); }
  static void unpack(const uint32_t* p, Operand (&to)[steps]) {
    const Words word = load_words(p);
    to[0] = byte_pairs<0>(word);
    to[1] = byte_pairs<1>(word);
  }
};

// A product whose words were unpacked to operands by unpack_group.
template <typename Product>
struct Unpacked : Product {
  static constexpr int steps = 1;
  static void unpack(const uint32_t* p, typename Product::Operand (&to)[1]) { to[0] = Product::load_operand(p); }
};

template <typename Product>
inline void unpack_group(const uint32_t* words, int64_t count, uint32_t* to) {
  for (int64_t i = 0; i < count; ++i, words += quantized_rows, to += Product::steps * quantized_rows)
    for (int64_t row = 0; row < quantized_rows; row += lanes) {
      typename Product::Operand operands[Product::steps];
      Product::unpack(words + row, operands);
      for (int s = 0; s < Product::steps; ++s) Product::store_operand(to + s * quantized_rows + row, operands[s]);
    }
}

// Tokens × vectors of rows in a register tile, as in panel_product.h.
constexpr int quantized_tile = lanes == 16 ? 6 : 4;
constexpr int quantized_vectors = lanes == 16 ? 4 : 2;

// Up to so many tokens unpack weights in registers.
constexpr int64_t unpacked_in_registers = 2;

constexpr int64_t quantized_block = 512;  // tokens

// What a tile reads of a group's activations, and the sums that it adds to.
template <typename XSum>
struct Tile {
  const uint32_t* x;  // [tokens][steps]
  int64_t steps;
  const float* scales;
  const XSum* minus_sums;
  float* acc;  // [tokens][64]
};

// acc[m] (+)= Σ over a group of x[m] · rows, for `tokens` tokens.
template <typename Product, int tokens>
inline void multiply_tile(const QuantizedGroup& group, int64_t count, const Tile<typename Product::XSum>& tile,
                          bool fresh) {
  constexpr int vectors = quantized_vectors, steps = Product::steps;
  for (int64_t row = 0; row < quantized_rows; row += vectors * lanes) {
    typename Product::Sum sums[tokens][vectors];
    for (int v = 0; v < vectors; ++v) {
      const I32 zeros = Product::zeros(group.zeros + row + v * lanes);
      for (int m = 0; m < tokens; ++m) sums[m][v] = Product::start(zeros, tile.minus_sums[m]);
    }
    const uint32_t* words = group.words + row;
    const uint32_t* x = tile.x;
    for (int64_t i = 0; i < count; ++i, words += quantized_rows, x += steps) {
      typename Product::Operand operands[vectors][steps];
      for (int v = 0; v < vectors; ++v) Product::unpack(words + v * lanes, operands[v]);
      for (int s = 0; s < steps; ++s)
        for (int m = 0; m < tokens; ++m) {
          const auto step = Product::splat_step(x + m * tile.steps + s);
          for (int v = 0; v < vectors; ++v) sums[m][v] = Product::dot(sums[m][v], operands[v][s], step);
        }
    }
    for (int v = 0; v < vectors; ++v) {
      const I32 zeros = Product::zeros(group.zeros + row + v * lanes);
      const F32 scales = load(group.scales + row + v * lanes);
      for (int m = 0; m < tokens; ++m) {
        float* acc = tile.acc + m * quantized_rows + row + v * lanes;
        const F32 before = fresh ? zero() : load(acc);
        store(acc, Product::finish(sums[m][v], zeros, tile.minus_sums[m], scales, tile.scales[m], before));
      }
    }
  }
}

template <typename Product>
inline void multiply_tile(int64_t tokens, const QuantizedGroup& group, int64_t count,
                          const Tile<typename Product::XSum>& tile, bool fresh) {
  switch (tokens) {
    case 1:
      return multiply_tile<Product, 1>(group, count, tile, fresh);
    case 2:
      return multiply_tile<Product, 2>(group, count, tile, fresh);
    case 3:
      return multiply_tile<Product, 3>(group, count, tile, fresh);
    case 4:
      return multiply_tile<Product, 4>(group, count, tile, fresh);
    case 5:
      return multiply_tile<Product, 5>(group, count, tile, fresh);
    default:
      return multiply_tile<Product, 6>(group, count, tile, fresh);
  }
}

// One group of a panel times tokens [first, first + tokens) of x, in even tiles.
template <typename Product>
inline void multiply_group(const QuantizedGroup& group, int64_t count, const Activations<typename Product::XSum>& x,
                           int64_t g, int64_t first, int64_t tokens, float* acc) {
  const int64_t tiles = (tokens + quantized_tile - 1) / quantized_tile;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t begin = tokens * i / tiles, end = tokens * (i + 1) / tiles;
    const int64_t at = g * x.tokens + first + begin;
    const Tile<typename Product::XSum> tile{x.x + at * x.steps, x.steps, x.scales + at, x.minus_sums + at,
                                            acc + begin * quantized_rows};
    multiply_tile<Product>(end - begin, group, count, tile, g == 0);
  }
}

// One panel times tokens [first, first + tokens) of x. `unpacked` has room for the operands of a group.
template <typename Product>
inline void multiply_panel(const QuantizedWeight& weight, int64_t panel, const Activations<typename Product::XSum>& x,
                           int64_t first, int64_t tokens, uint32_t* unpacked, float* acc) {
  const int64_t count = weight.words_of_group();
  for (int64_t g = 0; g < weight.groups; ++g) {
    QuantizedGroup group = weight.at(panel, g);
    if (Product::steps == 1 || tokens <= unpacked_in_registers) {
      multiply_group<Product>(group, count, x, g, first, tokens, acc);
    } else {
      unpack_group<Product>(group.words, count, unpacked);
      group.words = unpacked;
      multiply_group<Unpacked<Product>>(group, count * Product::steps, x, g, first, tokens, acc);
    }
  }
}

// Calls finish(panel index, first token, tokens, acc[tokens][64]) with every panel's products.
template <typename Product, typename Finish>
inline void multiply_quantized(Context& context, const Tensor& x, const Tensor& packed, const Finish& finish) {
  const QuantizedWeight weight(packed);
  const int64_t tokens = x.shape[0], count = weight.panels();
  if (tokens == 0) return;
  const auto rows_of_x = activations<typename Product::XSum>(context, x, weight);
  const int64_t at_once = tokens < quantized_block ? tokens : quantized_block;
  const int64_t sums = at_once * quantized_rows, operands = rows_of_x.steps * quantized_rows;
  // Long runs for the prefetcher, and enough of them that a thread which lost its core does not hold up the others.
  const int64_t piece = count / (context.threads() * 8) > 0 ? count / (context.threads() * 8) : 1;
  parallel(context, count, piece, [&](int64_t begin, int64_t end, int worker) {
    auto* acc = static_cast<float*>(context.scratch(worker, static_cast<size_t>(sums + operands) * sizeof(float)));
    auto* unpacked = reinterpret_cast<uint32_t*>(acc + sums);
    for (int64_t i = begin; i < end; ++i)
      for (int64_t t = 0; t < tokens; t += at_once) {
        const int64_t part = tokens - t < at_once ? tokens - t : at_once;
        multiply_panel<Product>(weight, i, rows_of_x, t, part, unpacked, acc);
        finish(i, t, part, acc);
      }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
