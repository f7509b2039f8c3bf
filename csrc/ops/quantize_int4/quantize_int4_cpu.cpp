#include "core/int4.h"
#include "cpu/simd.h"
#include "ops/quantize_int4/quantize_int4.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

constexpr int64_t max_group = 128;
constexpr int64_t word_rows = 8;    // share a word
constexpr int64_t block_rows = 16;  // lie side by side
constexpr int64_t item_rows = 128;  // of a piece of work: their words of a column fill a cache line

// A number for each row of a block.
using Row = float[block_rows];

// One group of columns of a block of rows, column by column.
struct Block {
  Row w[max_group], lo, hi;
  int64_t size;
};

struct Rounding {
  Row scale, zero, error;
};

// Rows n … n + rows of the source, columns first … first + block.size; rows beyond them are zeros.
template <typename T>
void read_block(const QuantizeInt4Args& args, int64_t n, int64_t rows, int64_t first, Block& block) {
  const float* column_scales = args.column_scales.present() ? args.column_scales.as<float>() + first : nullptr;
  for (int64_t r = 0; r < block_rows; ++r) {
    const T* from = r < rows ? args.source.row<T>(n + r) + first : nullptr;
    for (int64_t k = 0; k < block.size; ++k) {
      float w = from != nullptr ? to_float(from[k]) : 0.0f;
      if (column_scales != nullptr && from != nullptr) w *= column_scales[k];
      if (!__builtin_isfinite(w))
        fail("invalid_argument", "the weight at row %lld, column %lld is not a finite number",
             static_cast<long long>(n + r), static_cast<long long>(first + k));
      block.w[k][r] = w;
    }
  }
  for (int64_t r = 0; r < block_rows; r += lanes) {
    F32 lo = zero(), hi = zero();
    for (int64_t k = 0; k < block.size; ++k) {
      const F32 w = load(block.w[k] + r);
      lo = min(lo, w);
      hi = max(hi, w);
    }
    store(block.lo + r, lo);
    store(block.hi + r, hi);
  }
}

F32 from_0_to_15(F32 x) { return min(max(x, zero()), splat(15.0f)); }

F32 quantized(F32 w, F32 scale, F32 zero_point) { return from_0_to_15(add(round(div(w, scale)), zero_point)); }

void round_block(const Block& block, float shrink, Rounding& by) {
  for (int64_t r = 0; r < block_rows; r += lanes) {
    const F32 range = mul(sub(load(block.hi + r), load(block.lo + r)), splat(shrink));
    store(by.scale + r, min(max(div(range, splat(15.0f)), splat(0x1p-24f)), splat(65504.0f)));
  }
  for (float& scale : by.scale) scale = to_float(to_f16(scale));
  for (int64_t r = 0; r < block_rows; r += lanes) {
    const F32 scale = load(by.scale + r), below = mul(sub(zero(), load(block.lo + r)), splat(shrink));
    const F32 zero_point = from_0_to_15(round(div(below, scale)));
    F32 error = zero();
    for (int64_t k = 0; k < block.size; ++k) {
      const F32 w = load(block.w[k] + r);
      const F32 difference = sub(mul(scale, sub(quantized(w, scale, zero_point), zero_point)), w);
      error = add(error, mul(difference, difference));
    }
    store(by.zero + r, zero_point);
    store(by.error + r, error);
  }
}

// For each row the rounding with the least error.
void best_rounding(const Block& block, int32_t clip_steps, Rounding& best) {
  round_block(block, 1.0f, best);
  for (int32_t i = 1; i <= clip_steps; ++i) {
    Rounding by;
    round_block(block, 1.0f - static_cast<float>(i) / 40.0f, by);
    for (int64_t r = 0; r < block_rows; ++r) {
      if (!(by.error[r] < best.error[r])) continue;
      best.scale[r] = by.scale[r];
      best.zero[r] = by.zero[r];
      best.error[r] = by.error[r];
    }
  }
}

// The words of `rows` whole numbers from 0 to 15.
void store_words(const Row& numbers, int64_t rows, uint32_t* words) {
  for (int64_t r = 0; r < rows; r += word_rows) {
    uint32_t word = 0;
    for (int64_t i = 0; i < word_rows; ++i)
      word |= static_cast<uint32_t>(numbers[r + i]) << (4 * Int4Source::awq_nibble(i));
    words[r / word_rows] = word;
  }
}

template <typename T>
void quantize(Context& context, const QuantizeInt4Args& args) {
  const int64_t rows = args.source.shape[0], groups = args.scales.shape[0];
  const int64_t size = args.source.shape[1] / groups, row_items = (rows + item_rows - 1) / item_rows;
  const auto quantize_block = [&](int64_t n, int64_t count, int64_t g) {
    Block block;
    block.size = size;
    read_block<T>(args, n, count, g * size, block);
    Rounding by;
    best_rounding(block, args.clip_steps, by);
    for (int64_t r = 0; r < count; ++r) args.scales.row<f16>(g)[n + r] = to_f16(by.scale[r]);
    store_words(by.zero, count, args.qzeros.row<uint32_t>(g) + n / word_rows);
    for (int64_t k = 0; k < size; ++k) {
      Row q;
      for (int64_t r = 0; r < block_rows; r += lanes)
        store(q + r, quantized(load(block.w[k] + r), load(by.scale + r), load(by.zero + r)));
      store_words(q, count, args.qweight.row<uint32_t>(g * size + k) + n / word_rows);
    }
  };
  parallel(context, row_items * groups, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item / groups * item_rows, last = first + item_rows < rows ? first + item_rows : rows;
      for (int64_t n = first; n < last; n += block_rows)
        quantize_block(n, last - n < block_rows ? last - n : block_rows, item % groups);
    }
  });
}

}  // namespace

void quantize_int4(Context& context, const QuantizeInt4Args& args) {
  if (args.source.dtype == DType::bf16) return quantize<bf16>(context, args);
  if (args.source.dtype == DType::f16) return quantize<f16>(context, args);
  quantize<float>(context, args);
}

}  // namespace qwen2::cpu::QWEN2_SIMD
