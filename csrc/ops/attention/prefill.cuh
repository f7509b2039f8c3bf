// Prefill: flash attention (arXiv:2307.08691) over the paged cache, a block for every tile of packed rows and KV head.
//
// The floor is that of the tensor cores: 4 · rows · keys · D operations, half of them skipped by causality. A warp has
// 32 rows (16 in the small variant), so a fragment of keys or values that it loads from shared memory feeds 4 (2) mma.
// With 32 rows and D = 128 a range of 64 keys costs a warp 256 mma and 80 ldmatrix.x4; at 8 clocks of a quarter of an
// A100's multiprocessor an mma and 4 clocks of all of shared memory a load, that is 2,048 against 1,280 clocks: the
// tensor cores are the limit. With 16 rows it is 1,024 against 1,152, shared memory's. On Hopper mma.sync is expected
// to stay at about 60% of the peak; wgmma is another family's.
//
// Copies are one stream of K₀, V₀, K₁, V₁ … through a ring of slots, all but one of which are in flight. Both scales of a
// range of 8 bits come with its keys.
#pragma once

#include "ops/attention/tile.cuh"

namespace qwen2::cuda {

constexpr int attention_warps = attention_threads / warp_size;

struct PrefillTile {
  int b, kv_head;
  Sequence sequence;
  RowTile rows;
  Keys any, all;
  int first_range, ranges;
};

__device__ inline PrefillTile prefill_tile(const Step& step, const Spot& spot, int64_t place, int kv_head, int rows) {
  PrefillTile t;
  t.b = spot.sequence;
  t.kv_head = kv_head;
  t.sequence = read_sequence(step, t.b);
  t.rows = row_tile(t.sequence, step.group, rows, static_cast<int>(place - spot.before));
  t.any = t.rows.any(t.sequence, step.group, step.window);
  t.all = t.rows.all(t.sequence, step.group, step.window);
  t.first_range = t.any.begin / range_keys;
  t.ranges = t.any.end > t.any.begin ? ceil_div(t.any.end, range_keys) - t.first_range : 0;
  return t;
}

// row_tiles: of 16 rows, a warp has.
template <typename E, int D, int row_tiles, int slots>
struct PrefillShared {
  static constexpr int rows = attention_warps * row_tiles * 16;
  bf16 q[rows * D];
  char ring[slots][range_keys * kv_row_bytes<E, D>];
  Place places[2][range_units];  // of a range's keys; even and odd ranges
  RangeScales<E> scales[2];      // the same
  LineShared line;
  // Here and not in registers, of which the products need all.
  PrefillTile tile;
  int ends[rows];  // of the keys that a row sees
};

// Rows past the tile's last are zeros.
template <int D, int rows>
__device__ inline void load_queries(bf16* q, const Step& step, const PrefillTile& t) {
  constexpr int elements = piece_bytes / sizeof(bf16), pieces = D / elements;
  for (int i = threadIdx.x; i < rows * pieces; i += attention_threads) {
    const int row = i / pieces, piece = i % pieces;
    const bool present = row < t.rows.count;
    const bf16* from = present ? step.query(t.sequence, t.kv_head, t.rows.first + row) + piece * elements
                               : reinterpret_cast<const bf16*>(step.cache);
    bf16* to = q + piece_at<2 * D>(row, piece) / sizeof(bf16);
    if (step.q_vectors || !present) {
      cp_async_16(to, from, present ? 16 : 0);
    } else {
      for (int j = 0; j < elements; ++j) to[j] = from[j];
    }
  }
}

// scores += q·kᵀ for the warp's rows and 64 keys.
template <typename E, int D, int row_tiles>
__device__ inline void multiply_keys(float (&scores)[row_tiles][range_keys / 8][4], const bf16* q, const char* keys) {
#pragma unroll (E::quantized ? 1 : 2)  // not all: addresses of q would stay in registers from range to range
  for (int k = 0; k < D / 16; ++k) {
    uint32_t a[row_tiles][4];
#pragma unroll
    for (int m = 0; m < row_tiles; ++m) load_row_fragment<D>(a[m], q, (warp_index() * row_tiles + m) * 16, k);
#pragma unroll
    for (int n = 0; n < range_keys / 32; ++n) {
      uint32_t b[2][2][2];
      load_keys_of_32<E, D>(b, keys, 32 * n, k);
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int m = 0; m < row_tiles; ++m)
#pragma unroll
          for (int i = 0; i < 2; ++i) mma_m16n8k16(scores[m][4 * n + 2 * half + i], a[m], b[half][i]);
    }
  }
}

// out += p·v.
template <typename E, int D, int row_tiles>
__device__ inline void multiply_values(float (&out)[row_tiles][D / 8][4],
                                       const uint32_t (&p)[row_tiles][range_keys / 16][4], const char* values) {
#pragma unroll
  for (int k = 0; k < range_keys / 16; ++k)
#pragma unroll
    for (int n = 0; n < D / 32; ++n) {
      uint32_t b[4][2];
      load_values<E, D>(b, values, 16 * k, n);
#pragma unroll
      for (int m = 0; m < row_tiles; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) mma_m16n8k16(out[m][4 * n + i], p[m][k], b[i]);
    }
}

// Masks what the lane's rows of row tile m do not see.
template <int row_tiles>
__device__ inline void mask_row_tile(float (&scores)[range_keys / 8][4], int m, const int* row_ends, int first_key,
                                     int window) {
  const int row = (warp_index() * row_tiles + m) * 16 + lane_index() / 4;
  const int ends[2] = {row_ends[row], row_ends[row + 8]};
  mask_scores(scores, first_key, ends, window);
}

// The range's scores become probabilities, as operands; masks only where a row does not see all of the range.
template <bool exactly, int D, int row_tiles, typename Scales>
__device__ inline void weigh(float (&scores)[row_tiles][range_keys / 8][4],
                             uint32_t (&p)[row_tiles][range_keys / 16][4], RunningRows (&running)[row_tiles],
                             float (&out)[row_tiles][D / 8][4], const int* row_ends, int first_key, bool masked,
                             const Scales& scales, const Step& step) {
#pragma unroll
  for (int m = 0; m < row_tiles; ++m) {
    scale_scores(scores[m], scales, 0);
    if (masked) mask_row_tile<row_tiles>(scores[m], m, row_ends, first_key, step.window);
    float correction[2];
    softmax<exactly>(scores[m], running[m], correction, step.scale);
    correct_values(out[m], correction);
    scale_probabilities(scores[m], scales, 0);
#pragma unroll
    for (int k = 0; k < range_keys / 16; ++k)
      pack_probabilities(p[m][k], scores[m][2 * k], scores[m][2 * k + 1]);
  }
}

__device__ inline float inverse_of_sum(float sum) { return sum > 0 ? 1.0f / sum : 0.0f; }

// A lane's pairs of a tile of 16 rows, whose sums are whole.
template <int D>
__device__ inline void store_rows(const Step& step, const PrefillTile& t, int first_row, const float (&out)[D / 8][4],
                                  const float (&sums)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float inverse = inverse_of_sum(sums[i]);
    const int row = first_row + lane_index() / 4 + 8 * i;
    if (row >= t.rows.count) continue;
    bf16* to = step.output(t.sequence, t.kv_head, t.rows.first + row) + 2 * (lane_index() % 4);
#pragma unroll
    for (int j = 0; j < D / 8; ++j) store_pair(step, to + 8 * j, out[j][2 * i] * inverse, out[j][2 * i + 1] * inverse);
  }
}

// Thread i finds where the keys of row i end.
template <int rows>
__device__ inline void find_ends(int (&ends)[rows], const Step& step, const PrefillTile& t) {
  static_assert(rows <= attention_threads);
  const int row = static_cast<int>(threadIdx.x);
  if (row < rows)
    ends[row] = row < t.rows.count ? keys_of_token(t.sequence, (t.rows.first + row) / step.group, 0).end : 0;
}

// The stream of copies of a tile's keys and values.
template <typename E, int D, int row_tiles, int slots>
struct PrefillStream {
  static_assert(slots == 3 || slots == 4);  // or the places of a range would be replaced too early, or come too late
  const Step& step;
  PrefillShared<E, D, row_tiles, slots>& s;

  // Thread i of the first four finds unit i of a range.
  __device__ int unit_key(int range) const {
    return (s.tile.first_range + range) * range_keys + static_cast<int>(threadIdx.x) * unit_keys;
  }
  __device__ bool wants_unit(int range) const {
    return threadIdx.x < range_units && range < s.tile.ranges && s.tile.any.overlaps(unit_key(range), unit_keys);
  }
  __device__ int32_t look_up_unit(int range) const {
    return wants_unit(range) ? look_up(step, s.tile.b, unit_key(range)) : 0;
  }
  __device__ void keep_unit(int range, int32_t id) const {
    if (threadIdx.x < range_units)
      s.places[range % 2][threadIdx.x] =
          wants_unit(range) ? place_of(step, id, s.tile.b, s.tile.kv_head, unit_key(range)) : nowhere;
  }
  // Copy n is of the keys of range n / 2, or of its values if n is odd.
  __device__ void fetch(int n) const {
    const int range = n / 2, first_key = (s.tile.first_range + range) * range_keys;
    if (range < s.tile.ranges) {
      const auto& places = s.places[range % 2];
      load_range<E, D>(s.ring[n % slots], step, places, n % 2 == 0 ? 0 : step.block.keys(), first_key, s.tile.any);
      if (n % 2 == 0) load_range_scales(s.scales[range % 2], step, places, first_key, s.tile.any);
    }
    cp_async_commit();
  }
  __device__ void begin() const {
    keep_unit(0, look_up_unit(0));
    keep_unit(1, look_up_unit(1));
    find_ends(s.ends, step, s.tile);
    __syncthreads();
    if (s.tile.ranges > 0) load_queries<D, PrefillShared<E, D, row_tiles, slots>::rows>(s.q, step, s.tile);
    for (int n = 0; n < slots - 1; ++n) fetch(n);
  }
  // Waits for copy n; with it, its predecessor's slot is free, and filled.
  __device__ const char* arrive(int n) const {
    cp_async_wait<slots - 2>();
    __syncthreads();
    fetch(n + slots - 1);
    return s.ring[n % slots];
  }
};

// What a range of a tile adds to its rows; `exactly` nothing to those that see none of it (softmax).
template <bool exactly, typename E, int D, int row_tiles, int slots>
__device__ inline void attend_tile_range(const PrefillStream<E, D, row_tiles, slots>& stream, int range,
                                         float (&out)[row_tiles][D / 8][4], RunningRows (&running)[row_tiles]) {
  auto& s = stream.s;
  const PrefillTile& t = s.tile;
  const int first_key = (t.first_range + range) * range_keys;
  const char* keys = stream.arrive(2 * range);
  const int32_t id = stream.look_up_unit(range + 2);  // used after the product, which hides its latency
  float scores[row_tiles][range_keys / 8][4] = {};
  multiply_keys<E, D, row_tiles>(scores, s.q, keys);
  stream.keep_unit(range + 2, id);
  uint32_t p[row_tiles][range_keys / 16][4];
  const bool masked = first_key < t.all.begin || first_key + range_keys > t.all.end;
  weigh<exactly, D, row_tiles>(scores, p, running, out, s.ends, first_key, masked, s.scales[range % 2], stream.step);
  multiply_values<E, D, row_tiles>(out, p, stream.arrive(2 * range + 1));
}

// Whether the block has a tile, which is then in shared memory. The last tiles of a sequence have the most keys and go
// first; all heads of a tile go together.
template <int rows>
__device__ inline bool find_tile(const Step& step, LineShared& line, PrefillTile& tile) {
  const int64_t from_end = blockIdx.x / step.kv_heads;
  const Spot spot = find_in_line<attention_threads>(
      step.sequences, line, [&](int b) { return prefill_tiles(read_sequence(step, b), step.group, rows); },
      [from_end](int64_t total) { return total - 1 - from_end; });
  if (spot.sequence < 0) return false;
  if (threadIdx.x == 0)
    tile = prefill_tile(step, spot, spot.total - 1 - from_end, static_cast<int>(blockIdx.x % step.kv_heads), rows);
  __syncthreads();
  return true;
}

template <typename E, int D, int row_tiles, int slots>
__global__ void __launch_bounds__(attention_threads, 2) prefill_kernel(Step step) {
  griddepcontrol_wait();
  auto& s = shared<PrefillShared<E, D, row_tiles, slots>>();
  // The last block hardly ever has a tile.
  if (blockIdx.x == gridDim.x - 1) check_step<attention_threads>(step);
  if (!find_tile<PrefillShared<E, D, row_tiles, slots>::rows>(step, s.line, s.tile)) return;
  const PrefillTile& t = s.tile;
  const PrefillStream<E, D, row_tiles, slots> stream{step, s};

  float out[row_tiles][D / 8][4] = {};
  RunningRows running[row_tiles];
  stream.begin();
  for (int range = 0; range < t.ranges; ++range) attend_tile_range<false>(stream, range, out, running);
  cp_async_wait<0>();
#pragma unroll
  for (int m = 0; m < row_tiles; ++m) {
    const float sums[2] = {sum_of_row(running[m].sum[0]), sum_of_row(running[m].sum[1])};
    store_rows<D>(step, t, (warp_index() * row_tiles + m) * 16, out[m], sums);
  }
}

}  // namespace qwen2::cuda
