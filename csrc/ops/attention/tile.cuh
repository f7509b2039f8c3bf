// Tiles of queries, keys and values in shared memory, what a warp loads of them for its tensor cores, and the softmax
// between the two products.
#pragma once

#include "ops/attention/step.cuh"

namespace qwen2::cuda {

constexpr int piece_elements = 8;  // of 16 bytes

// Where a piece of a row is in a tile [rows, D]: permuted by the row, so that the eight rows that an ldmatrix reads at
// a time lie in different banks.
template <int D>
__device__ inline int piece_at(int row, int piece) {
  return row * D + (piece ^ (row % 8)) * piece_elements;
}

// Copies 64 keys, or values, that begin `distance` elements behind the places; zeros for tokens that are not in `keys`:
// unwritten memory may hold NaN, and 0 · NaN is NaN.
template <int D>
__device__ inline void load_range(bf16* tile, const bf16* cache, const int64_t (&places)[range_units],
                                  int64_t distance, int first_key, const Keys& keys) {
  constexpr int pieces = D / piece_elements, rows_at_once = attention_threads / pieces;
  const int piece = static_cast<int>(threadIdx.x) % pieces, first_row = static_cast<int>(threadIdx.x) / pieces;
#pragma unroll 1  // its addresses would take registers from the products
  for (int unit = 0; unit < range_units; ++unit) {
    const int64_t place = places[unit];
#pragma unroll
    for (int i = first_row; i < first_row + unit_keys; i += rows_at_once) {
      const int row = unit * unit_keys + i;
      const bool present = place >= 0 && keys.contains(first_key + row);
      const bf16* from = cache + place + distance + i * D + piece * piece_elements;
      cp_async_16(tile + piece_at<D>(row, piece), present ? from : cache, present ? 16 : 0);
    }
  }
}

// Fragments of 16 rows from a multiple of 16 on and of columns 16k …: two pieces, 2k and 2k + 1, of every row. Piece
// 2k + i is where piece i is but for the bits of 16k, so one offset a lane serves all fragments.
template <int D>
__device__ inline const bf16* fragment_row(const bf16* tile, int first_row, int row, int piece, int k) {
  return tile + first_row * D + (piece_at<D>(row, piece) ^ 16 * k);
}

// Operand A.
template <int D>
__device__ inline void load_row_fragment(uint32_t (&a)[4], const bf16* tile, int first_row, int k) {
  ldmatrix_x4(a, fragment_row<D>(tile, first_row, lane_index() % 16, lane_index() / 16, k));
}

// Operand B of q·kᵀ: keys 0 … 7 are b[0], keys 8 … 15 are b[1].
template <int D>
__device__ inline void load_key_fragment(uint32_t (&b)[2][2], const bf16* tile, int first_key, int k) {
  const int lane = lane_index();
  uint32_t r[4];
  ldmatrix_x4(r, fragment_row<D>(tile, first_key, lane / 16 * 8 + lane % 8, lane / 8 % 2, k));
  b[0][0] = r[0];
  b[0][1] = r[1];
  b[1][0] = r[2];
  b[1][1] = r[3];
}

// Operand B of p·v: columns 0 … 7 are b[0], columns 8 … 15 are b[1].
template <int D>
__device__ inline void load_value_fragment(uint32_t (&b)[2][2], const bf16* tile, int first_key, int k) {
  uint32_t r[4];
  ldmatrix_x4_trans(r, fragment_row<D>(tile, first_key, lane_index() % 16, lane_index() / 16, k));
  b[0][0] = r[0];
  b[0][1] = r[1];
  b[1][0] = r[2];
  b[1][1] = r[3];
}

// Operand A of p·v for 16 keys: the scores of two neighbouring tiles of eight, as they lie in registers.
__device__ inline void pack_probabilities(uint32_t (&a)[4], const float (&low)[4], const float (&high)[4]) {
  a[0] = cvt_bf16x2(low[0], low[1]);
  a[1] = cvt_bf16x2(low[2], low[3]);
  a[2] = cvt_bf16x2(high[0], high[1]);
  a[3] = cvt_bf16x2(high[2], high[3]);
}

// --- Softmax -------------------------------------------------------------------------------------------------------

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
// `correction`. The sums are of the fp32 values: rounding to bf16 has errors of both signs, which sums need not share.
template <int tiles>
__device__ inline void softmax(float (&scores)[tiles][4], RunningRows& rows, float (&correction)[2], float scale) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float maximum = rows.max[i];
#pragma unroll
    for (int j = 0; j < tiles; ++j) maximum = fmaxf(maximum, fmaxf(scores[j][2 * i], scores[j][2 * i + 1]));
    maximum = fmaxf(maximum, __shfl_xor_sync(full_warp, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(full_warp, maximum, 2));
    const float base = maximum == minus_infinity ? 0.0f : maximum * scale;
    correction[i] = ex2_approx(rows.max[i] * scale - base);
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
