// Tiles of queries, keys and values in shared memory, what a warp loads of them for its tensor cores, and the softmax
// between the two products.
#pragma once

#include <algorithm>
#include <type_traits>

#include "ops/attention/step.cuh"

namespace qwen2::cuda {

constexpr int piece_bytes = 16;

// Where a piece of a row is in a tile of rows of 64 bytes or a multiple of 128: permuted by the row, so that the eight rows
// that an ldmatrix reads at a time lie in different banks.
template <int row_bytes>
__device__ inline int piece_at(int row, int piece) {
  static_assert(row_bytes == 64 || row_bytes % 128 == 0);
  return row * row_bytes + (piece ^ (row_bytes == 64 ? row / 2 % 4 : row % 8)) * piece_bytes;
}

template <typename E, int D>
constexpr int kv_row_bytes = D * E::bytes;

// The scales of 64 keys and values.
struct QuantizedRange {
  float key_scales[range_keys];
  float value_scales[range_keys];
};
struct ExactRange {};
template <typename E>
using RangeScales = std::conditional_t<E::quantized, QuantizedRange, ExactRange>;

// Copies 64 keys, or values, that begin so many vectors behind the places; zeros for tokens that are not in `keys`:
// unwritten memory may hold NaN, and 0 · NaN is NaN.
template <typename E, int D>
__device__ inline void load_range(char* tile, const Step& step, const Place (&places)[range_units], int64_t vectors_behind,
                                  int first_key, const Keys& keys) {
  constexpr int row_bytes = kv_row_bytes<E, D>, pieces = row_bytes / piece_bytes;
  constexpr int rows_at_once = attention_threads / pieces;  // part of a unit, or two units
  const int piece = static_cast<int>(threadIdx.x) % pieces, first_row = static_cast<int>(threadIdx.x) / pieces;
#pragma unroll 1  // its addresses would take registers from the products
  for (int rows = first_row; rows < range_keys; rows += std::max(rows_at_once, unit_keys)) {
    const Place place = places[rows / unit_keys];
    const char* vectors = place.in(step) + (place.vector + vectors_behind) * row_bytes;
#pragma unroll
    for (int row = rows; row < rows + unit_keys; row += rows_at_once) {
      const bool present = place.exists() && keys.contains(first_key + row);
      cp_async_16(tile + piece_at<row_bytes>(row, piece),
                  present ? vectors + row % unit_keys * row_bytes + piece * piece_bytes : step.cache, present ? 16 : 0);
    }
  }
}

// The scales of a range, of keys and values. Those of tokens that are not in `keys` may be NaN: see scale_scores and
// scale_probabilities.
__device__ inline void load_range_scales(QuantizedRange& to, const Step& step, const Place (&places)[range_units],
                                         int first_key, const Keys& keys) {
  constexpr int scales = piece_bytes / sizeof(float), pieces = range_keys / scales;
  if (threadIdx.x >= 2 * pieces) return;
  const bool of_values = threadIdx.x >= pieces;
  const int first = static_cast<int>(threadIdx.x) % pieces * scales;
  const Place place = places[first / unit_keys];
  const bool present = place.exists() && keys.overlaps(first_key + first, scales);
  const int64_t vector = place.vector + first % unit_keys + (of_values ? step.block.keys() : 0);
  const char* from = place.in(step) + step.block.elements() + vector * int64_t{sizeof(float)};
  cp_async_16((of_values ? to.value_scales : to.key_scales) + first, present ? from : step.cache, present ? 16 : 0);
}
__device__ inline void load_range_scales(ExactRange&, const Step&, const Place (&)[range_units], int, const Keys&) {}

// What a lane gives ldmatrix of a row from a multiple of 16 on: piece `piece`, 0 or 1, of the two that are `further` (even)
// pieces behind the first; or just that one, if `piece` is 0. Piece `further + i` is where piece i is but for the bits of
// `further`, so one offset a lane serves all fragments.
template <int row_bytes>
__device__ inline const char* fragment_row(const char* tile, int first_row, int row, int piece, int further) {
  return tile + first_row * row_bytes + (piece_at<row_bytes>(row, piece) ^ further * piece_bytes);
}

// Operand A: 16 rows of bf16, columns 16k ….
template <int D>
__device__ inline void load_row_fragment(uint32_t (&a)[4], const bf16* tile, int first_row, int k) {
  ldmatrix_x4(a, fragment_row<2 * D>(reinterpret_cast<const char*>(tile), first_row, lane_index() % 16,
                                     lane_index() / 16, 2 * k));
}

// --- Operand B of q·kᵀ: 8 keys, 16 columns -------------------------------------------------------------------------

template <int D>
__device__ inline void load_bf16_keys(uint32_t (&b)[2][2], const char* tile, int first_key, int k) {
  const int lane = lane_index();
  uint32_t r[4];
  ldmatrix_x4(r, fragment_row<2 * D>(tile, first_key, lane / 16 * 8 + lane % 8, lane / 8 % 2, 2 * k));
  b[0][0] = r[0];
  b[0][1] = r[1];
  b[1][0] = r[2];
  b[1][1] = r[3];
}

template <typename E>
__device__ inline void widen_keys(uint32_t (&b)[2], uint32_t word) {
  b[0] = E::pair(word);
  b[1] = E::pair(word >> 8);
}

// Of 16 keys, columns 32k …: b[i][n] is of columns 32k + 16i … and keys 8n ….
template <typename E, int D>
__device__ inline void load_keys_of_16(uint32_t (&b)[2][2][2], const char* tile, int first_key, int k) {
  if constexpr (E::quantized) {
    uint32_t r[4];
    ldmatrix_x4(r, fragment_row<D>(tile, first_key, lane_index() % 16, lane_index() / 16, 2 * k));
#pragma unroll
    for (int i = 0; i < 4; ++i) widen_keys<E>(b[i / 2][i % 2], r[i]);
  } else {
    for (int i = 0; i < 2; ++i) load_bf16_keys<D>(b[i], tile, first_key, 2 * k + i);
  }
}

// Of 32 keys, columns 16k …: b[n][i] is of keys 16n + 8i ….
template <typename E, int D>
__device__ inline void load_keys_of_32(uint32_t (&b)[2][2][2], const char* tile, int first_key, int k) {
  if constexpr (E::quantized) {
    uint32_t r[4];
    ldmatrix_x4(r, fragment_row<D>(tile, first_key, lane_index(), 0, k));
#pragma unroll
    for (int i = 0; i < 4; ++i) widen_keys<E>(b[i / 2][i % 2], r[i]);
  } else {
    for (int n = 0; n < 2; ++n) load_bf16_keys<D>(b[n], tile, first_key + 16 * n, k);
  }
}

// --- Operand B of p·v: 16 keys, 8 columns --------------------------------------------------------------------------

// Columns 32n …: b[i] is of columns 32n + 8i ….
template <typename E, int D>
__device__ inline void load_values(uint32_t (&b)[4][2], const char* tile, int first_key, int n) {
  const int row = lane_index() % 16, piece = lane_index() / 16;
  uint32_t r[4];
  if constexpr (E::quantized) {
    ldmatrix_x4_trans(r, fragment_row<D>(tile, first_key, row, piece, 2 * n));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      b[i / 2 * 2][i % 2] = E::pair(r[i]);
      b[i / 2 * 2 + 1][i % 2] = E::pair(r[i] >> 8);
    }
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      ldmatrix_x4_trans(r, fragment_row<2 * D>(tile, first_key, row, piece, 4 * n + 2 * half));
#pragma unroll
      for (int i = 0; i < 4; ++i) b[2 * half + i / 2][i % 2] = r[i];
    }
  }
}

// --- Scales --------------------------------------------------------------------------------------------------------

// Scores of 8-bit keys from first_key of a range on. What NaN does to keys that nobody sees, masking undoes.
template <int tiles>
__device__ inline void scale_scores(float (&scores)[tiles][4], const QuantizedRange& range, int first_key) {
#pragma unroll
  for (int j = 0; j < tiles; ++j) {
    const float* scales = range.key_scales + first_key + 8 * j + 2 * (lane_index() % 4);
#pragma unroll
    for (int c = 0; c < 4; ++c) scores[j][c] *= scales[c % 2];
  }
}
template <int tiles>
__device__ inline void scale_scores(float (&)[tiles][4], const ExactRange&, int) {}

// Probabilities to factors of 8-bit values; those of keys that nobody sees stay zero.
template <int tiles>
__device__ inline void scale_probabilities(float (&p)[tiles][4], const QuantizedRange& range, int first_key) {
#pragma unroll
  for (int j = 0; j < tiles; ++j) {
    const float* scales = range.value_scales + first_key + 8 * j + 2 * (lane_index() % 4);
#pragma unroll
    for (int c = 0; c < 4; ++c) p[j][c] = p[j][c] > 0 ? p[j][c] * scales[c % 2] : p[j][c];
  }
}
template <int tiles>
__device__ inline void scale_probabilities(float (&)[tiles][4], const ExactRange&, int) {}

// --- Softmax -------------------------------------------------------------------------------------------------------

// Operand A of p·v for 16 keys: the scores of two neighbouring tiles of eight, as they lie in registers.
__device__ inline void pack_probabilities(uint32_t (&a)[4], const float (&low)[4], const float (&high)[4]) {
  a[0] = cvt_bf16x2(low[0], low[1]);
  a[1] = cvt_bf16x2(low[2], low[3]);
  a[2] = cvt_bf16x2(high[0], high[1]);
  a[3] = cvt_bf16x2(high[2], high[3]);
}

constexpr float minus_infinity = -__builtin_inff();

// 2^(scale · (x − maximum)), where both may be minus infinity.
__device__ inline float weight_of(float x, float maximum, float scale) {
  return maximum == minus_infinity ? 0.0f : ex2_approx((x - maximum) * scale);
}

// What a lane knows of its rows, lane / 4 and that plus 8. Sums are of the lane's own columns until sum_of_row.
struct RunningRows {
  float max[2] = {minus_infinity, minus_infinity};
  float sum[2] = {0, 0};
};

// Row i sees the keys before ends[i], the last `window` of them; window 0: all.
template <int tiles>
__device__ inline void mask_scores(float (&scores)[tiles][4], int first_key, const int (&ends)[2], int window) {
  const int lane_key = first_key + 2 * (lane_index() % 4);
#pragma unroll
  for (int j = 0; j < tiles; ++j)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int key = lane_key + 8 * j + c % 2, end = ends[c / 2];
      if (key >= end || (window > 0 && key < end - window)) scores[j][c] = minus_infinity;
    }
}

// Scores become probabilities relative to the rows' maxima so far. What earlier keys gave is to be multiplied by
// `correction`; `exactly` makes that 1 where they gave the maximum, whatever a compiler joins, so that keys which a row does
// not see change nothing. The sums are of the fp32 values: rounding to bf16 has errors of both signs, which sums need not
// share.
template <bool exactly = false, int tiles>
__device__ inline void softmax(float (&scores)[tiles][4], RunningRows& rows, float (&correction)[2], float scale) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float maximum = rows.max[i];
#pragma unroll
    for (int j = 0; j < tiles; ++j) maximum = fmaxf(maximum, fmaxf(scores[j][2 * i], scores[j][2 * i + 1]));
    maximum = fmaxf(maximum, __shfl_xor_sync(full_warp, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(full_warp, maximum, 2));
    const float base = maximum == minus_infinity ? 0.0f : maximum * scale;
    correction[i] = exactly && rows.max[i] == maximum ? 1.0f : ex2_approx(rows.max[i] * scale - base);
    rows.max[i] = maximum;
    float sum = rows.sum[i] * correction[i];
#pragma unroll
    for (int j = 0; j < tiles; ++j)
#pragma unroll
      for (int c = 2 * i; c < 2 * i + 2; ++c) {
        scores[j][c] = ex2_approx(scores[j][c] * scale - base);
        sum += scores[j][c];
      }
    rows.sum[i] = sum;
  }
}

__device__ inline float sum_of_row(float sum) {
  sum += __shfl_xor_sync(full_warp, sum, 1);
  return sum + __shfl_xor_sync(full_warp, sum, 2);
}

template <int tiles>
__device__ inline void correct_values(float (&values)[tiles][4], const float (&correction)[2]) {
#pragma unroll
  for (int j = 0; j < tiles; ++j)
#pragma unroll
    for (int c = 0; c < 4; ++c) values[j][c] *= correction[c / 2];
}

}  // namespace qwen2::cuda
