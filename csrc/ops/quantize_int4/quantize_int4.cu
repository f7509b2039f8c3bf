#include "core/int4.h"
#include "cuda/elementwise.h"
#include "cuda/reduce.h"
#include "cuda/shared.h"
#include "ops/quantize_int4/quantize_int4.h"

namespace qwen2::cuda {
namespace {

constexpr int max_group = 128;
constexpr int warps = 4;
constexpr int threads = warps * warp_size;
constexpr int word_rows = 8;  // share a word

// A block has one group of columns of 32 rows: a lane a row. Its warps share the shrinks, and later the columns.
struct Shared {
  float w[max_group][warp_size + 1];  // by columns
  float errors[warps][warp_size];
  int steps[warps][warp_size];
};

struct Rounding {
  uint16_t scale_bits;
  float scale, zero;

  __device__ float q(float w) const { return fminf(fmaxf(rintf(w / scale) + zero, 0.0f), 15.0f); }
};

// One row of the block's group.
struct Row {
  const Shared& tile;
  int lane, size;
  float lo = 0, hi = 0;

  __device__ Row(const Shared& shared_tile, int row, int columns) : tile(shared_tile), lane(row), size(columns) {
    for (int k = 0; k < size; ++k) {
      lo = fminf(lo, w(k));
      hi = fmaxf(hi, w(k));
    }
  }
  __device__ float w(int k) const { return tile.w[k][lane]; }

  __device__ Rounding rounding(int step) const {
    const float shrink = 1.0f - static_cast<float>(step) / 40.0f;
    Rounding by;
    by.scale_bits = cvt_f16(fminf(fmaxf((hi - lo) * shrink / 15.0f, 0x1p-24f), 65504.0f));
    by.scale = cvt_float(by.scale_bits);
    by.zero = fminf(fmaxf(rintf(-lo * shrink / by.scale), 0.0f), 15.0f);
    return by;
  }

  __device__ float error(const Rounding& by) const {
    float sum = 0;
    for (int k = 0; k < size; ++k) {
      const float difference = by.scale * (by.q(w(k)) - by.zero) - w(k);
      sum += difference * difference;
    }
    return sum;
  }
};

template <typename T>
__device__ void read_tile(Shared& tile, Rows<const T> source, const float* column_scales, int64_t rows, int64_t n0,
                          int64_t first, int size, ErrorSlot not_finite) {
  for (int i = static_cast<int>(threadIdx.x); i < warp_size * size; i += threads) {
    const int row = i / size, k = i % size;
    float w = 0;
    if (n0 + row < rows) {
      w = load_source(source.row(n0 + row) + first + k);
      if (column_scales != nullptr) w *= column_scales[first + k];
      if (!(fabsf(w) < INFINITY)) {
        report(not_finite, n0 + row, first + k);
        w = 0;
      }
    }
    tile.w[k][row] = w;
  }
}

// The first of the steps with the least error; all warps of the block learn it.
__device__ inline int best_step(Shared& tile, const Row& row, int clip_steps) {
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  float least = INFINITY;
  int best = warp;
  for (int step = warp; step <= clip_steps; step += warps) {
    const float error = row.error(row.rounding(step));
    if (error < least) {
      least = error;
      best = step;
    }
  }
  tile.errors[warp][row.lane] = least;
  tile.steps[warp][row.lane] = best;
  __syncthreads();
  least = tile.errors[0][row.lane];
  best = tile.steps[0][row.lane];
  for (int other = 1; other < warps; ++other) {
    const float error = tile.errors[other][row.lane];
    const int step = tile.steps[other][row.lane];
    if (error < least || (error == least && step < best)) {
      least = error;
      best = step;
    }
  }
  return best;
}

// Eight lanes' numbers from 0 to 15 as one word, in all of them.
__device__ inline uint32_t word_of(float number, int64_t n) {
  uint32_t word = static_cast<uint32_t>(number) << (4 * Int4Source::awq_nibble(n));
  for (int lanes = 1; lanes < word_rows; lanes *= 2) word |= __shfl_xor_sync(full_warp, word, lanes);
  return word;
}

template <typename T>
__global__ void __launch_bounds__(threads)
    quantize_int4_kernel(Rows<const T> source, const float* column_scales, int64_t rows, int size, int clip_steps,
                         Rows<uint32_t> qweight, Rows<uint32_t> qzeros, Rows<uint16_t> scales, ErrorSlot not_finite) {
  Shared& tile = shared<Shared>();
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  const int64_t n0 = int64_t{blockIdx.x} * warp_size, n = n0 + lane, g = blockIdx.y;
  read_tile(tile, source, column_scales, rows, n0, g * size, size, not_finite);
  __syncthreads();
  const Row row(tile, lane, size);
  const Rounding by = row.rounding(best_step(tile, row, clip_steps));
  const bool writes_word = n % word_rows == 0 && n < rows;
  if (warp == 0) {
    const uint32_t zeros = word_of(by.zero, n);
    if (writes_word) qzeros.row(g)[n / word_rows] = zeros;
    if (n < rows) scales.row(g)[n] = by.scale_bits;
  }
  for (int k = warp; k < size; k += warps) {
    const uint32_t word = word_of(by.q(row.w(k)), n);
    if (writes_word) qweight.row(g * size + k)[n / word_rows] = word;
  }
}

template <typename T>
void quantize(Context& context, const QuantizeInt4Args& args) {
  const int64_t rows = args.source.shape[0], groups = args.scales.shape[0];
  const dim3 blocks(static_cast<unsigned>((rows + warp_size - 1) / warp_size), static_cast<unsigned>(groups));
  launch(context, quantize_int4_kernel<T>, {.blocks = blocks, .threads = threads, .shared_bytes = sizeof(Shared)},
         rows_of<const T>(args.source), args.column_scales.as<float>(), rows,
         static_cast<int>(args.source.shape[1] / groups), args.clip_steps, rows_of<uint32_t>(args.qweight),
         rows_of<uint32_t>(args.qzeros), rows_of<uint16_t>(args.scales),
         context.errors("the weight at row %lld, column %lld is not a finite number"));
}

}  // namespace

void quantize_int4(Context& context, const QuantizeInt4Args& args) {
  if (args.source.dtype == DType::bf16) return quantize<bf16>(context, args);
  if (args.source.dtype == DType::f16) return quantize<f16>(context, args);
  quantize<float>(context, args);
}

}  // namespace qwen2::cuda
