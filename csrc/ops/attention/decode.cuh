// Decode: few queries a sequence, so the keys are split over the device, and a second launch puts the pieces together.
//
// The floor is memory: every key and value of the contexts once. All items (sequence, KV head, tile of 16 packed rows)
// stand in one line of ranges of 64 keys, of which every block gets an equal share (plan.h). What is in flight hides
// the latency of memory: at D = 128 a range is 32 KB and 2 of 3 stages are in flight, 64 KB; at D = 64 it is 16 KB and
// 4 of 5, again 64 KB. Where a multiprocessor has room for two blocks (D = 128: Hopper; D = 64: A100 and Hopper) it is
// 128 KB. At 4.3 TB/s and 132 multiprocessors a latency of 1 µs needs 33 KB each. A range costs each of four warps 32
// mma and 16 ldmatrix.x4 at D = 128, a few hundred clocks of the 1,700 that its bytes take, so memory is expected to
// be the limit from about 4 ranges a block on; with fewer, the latency of finding, planning and combining is.
// Of 8-bit elements a range is half as many bytes, 3 of 4 stages (D = 128) or 7 of 8 (D = 64) are in flight, and widening
// them costs a warp about as many instructions again.
//
// Warp 0 plans ranges ahead of their copies: which item, and where its keys are. The others read the plan.
#pragma once

#include "ops/attention/tile.cuh"

namespace qwen2::cuda {

// Of an item that several blocks share: what one of them found. Weighted values are relative to 2^(scale · max).
template <int D>
struct Piece {
  float values[decode_rows][D];
  float max[decode_rows];
  float sum[decode_rows];
};

// A range of an item, as planned.
struct DecodeRange {
  Place places[range_units];  // of its keys
  int first_key;
  int kv_head;
  Sequence sequence;
  RowTile rows;
  Keys keys;         // that any of the rows sees
  int piece;         // where the block leaves what it finds of the item; −1: it has all of it
  bool first, last;  // of the item, in this block

  __device__ bool empty() const { return !keys.overlaps(first_key, range_keys); }
};

template <typename E, int D, int stages>
struct DecodeShared {
  struct Stage : RangeScales<E> {
    alignas(128) char keys[range_keys * kv_row_bytes<E, D>];
    char values[range_keys * kv_row_bytes<E, D>];
  };
  // The last range's stage of an item is where its warps then leave their values, all of them or half at a time.
  static constexpr int leaving_warps = 2 * sizeof(Stage::keys) / (decode_rows * D * sizeof(float));
  static_assert(leaving_warps == 4 || leaving_warps == 2);
  union {
    Stage stage[stages];
    LineShared line;  // until the first copy
  };
  DecodeRange plan[stages + 1];  // one more: it is planned while the others are in use
  float max[attention_threads / warp_size][decode_rows];
  float sum[attention_threads / warp_size][decode_rows];
};

// Walks a block's share of the line, a range at a time.
class DecodePlanner {
 public:
  __device__ DecodePlanner(const Step& step, const Share& share, const Spot& spot)
      : step_(step), share_(share), at_(share.begin), b_(spot.sequence) {
    read(b_);
    const int within = static_cast<int>((at_ - spot.before) % (int64_t{work_.tiles} * work_.ranges));
    kv_head_ = static_cast<int>((at_ - spot.before) / (int64_t{work_.tiles} * work_.ranges));
    tile_ = within / work_.ranges;
    range_ = within % work_.ranges;
  }

  __device__ bool done() const { return at_ >= share_.end; }

  // The block of the cache with 16 keys of the range; to be asked for before it is needed.
  __device__ int32_t look_up_unit(int unit) const {
    return !done() && keys().overlaps(first_key(unit), unit_keys) ? look_up(step_, b_, first_key(unit)) : 0;
  }

  // Leaves the range's plan, by all lanes of the warp, and goes on to the next.
  __device__ void plan(DecodeRange& to, int32_t id) {
    if (done()) return;
    const int unit = lane_index();
    if (unit < range_units)
      to.places[unit] =
          keys().overlaps(first_key(unit), unit_keys) ? place_of(step_, id, b_, kv_head_, first_key(unit)) : nowhere;
    if (unit == 0) {
      const int64_t begin = at_ - range_;
      const bool whole = share_.begin <= begin && begin + work_.ranges <= share_.end;
      to.first_key = first_key(0);
      to.kv_head = kv_head_;
      to.sequence = sequence_;
      to.rows = rows();
      to.keys = keys();
      to.piece = whole ? -1 : static_cast<int>(decode_piece(blockIdx.x, share_, begin));
      to.first = at_ == share_.begin || range_ == 0;
      to.last = at_ + 1 == share_.end || range_ + 1 == work_.ranges;
    }
    advance();
  }

 private:
  __device__ void read(int b) {
    sequence_ = read_sequence(step_, b);
    work_ = decode_work(sequence_, step_.group, step_.window);
  }
  __device__ RowTile rows() const { return row_tile(sequence_, step_.group, decode_rows, tile_); }
  __device__ Keys keys() const { return rows().any(sequence_, step_.group, step_.window); }
  __device__ int first_key(int unit) const { return (work_.first_range + range_) * range_keys + unit * unit_keys; }
  __device__ void advance() {
    ++at_;
    if (++range_ < work_.ranges) return;
    range_ = 0;
    if (++tile_ < work_.tiles) return;
    tile_ = 0;
    if (++kv_head_ < step_.kv_heads) return;
    kv_head_ = 0;
    if (done()) return;
    do read(++b_);
    while (work_.tiles == 0);
  }

  const Step& step_;
  Share share_;
  int64_t at_;
  int b_, kv_head_, tile_, range_;
  Sequence sequence_;
  DecodeWork work_;
};

// What a warp has of an item: the queries, and what its keys so far gave.
template <int D>
struct DecodeWarp {
  uint32_t q[D / 16][4];
  int ends[2];  // of what the lane's rows see
  Keys all;     // seen by all rows
  float out[D / 8][4];
  RunningRows running;
};

__device__ inline uint32_t load_pair(const bf16* from, bool aligned) {
  if (aligned) return *reinterpret_cast<const uint32_t*>(from);
  return from[0].bits | uint32_t{from[1].bits} << 16;
}

template <int D>
__device__ inline void begin_item(DecodeWarp<D>& w, const Step& step, const DecodeRange& item) {
  w.all = item.rows.all(item.sequence, step.group, step.window);
  w.running = {};
#pragma unroll
  for (int j = 0; j < D / 8; ++j)
#pragma unroll
    for (int c = 0; c < 4; ++c) w.out[j][c] = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = lane_index() / 4 + 8 * i;
    // Queries of padding are not to be looked at.
    const bool present = row < item.rows.count && item.sequence.context > 0;
    const int packed = item.rows.first + row;
    w.ends[i] = present ? keys_of_token(item.sequence, packed / step.group, 0).end : 0;
    const bf16* q = present ? step.query(item.sequence, item.kv_head, packed) + 2 * (lane_index() % 4) : nullptr;
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      w.q[k][i] = present ? load_pair(q + 16 * k, step.q_vectors) : 0;
      w.q[k][i + 2] = present ? load_pair(q + 16 * k + 8, step.q_vectors) : 0;
    }
  }
}

// The warp's 16 keys of a range.
template <typename E, int D, typename Stage>
__device__ inline void attend_range(DecodeWarp<D>& w, const Stage& stage, int range_first_key, const Step& step) {
  const int first = warp_index() * unit_keys, first_key = range_first_key + first;
  float scores[2][4] = {};
#pragma unroll
  for (int k = 0; k < D / 32; ++k) {
    uint32_t b[2][2][2];
    load_keys_of_16<E, D>(b, stage.keys, first, k);
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < 2; ++i) mma_m16n8k16(scores[i], w.q[2 * k + half], b[half][i]);
  }
  scale_scores(scores, stage, first);
  if (first_key < w.all.begin || first_key + unit_keys > w.all.end) 
    mask_scores(scores, first_key, w.ends, step.window);
  float correction[2];
  softmax(scores, w.running, correction, step.scale);
  correct_values(w.out, correction);
  scale_probabilities(scores, stage, first);
  uint32_t p[4];
  pack_probabilities(p, scores[0], scores[1]);
#pragma unroll
  for (int n = 0; n < D / 32; ++n) {
    uint32_t b[4][2];
    load_values<E, D>(b, stage.values, first, n);
#pragma unroll
    for (int i = 0; i < 4; ++i) mma_m16n8k16(w.out[4 * n + i], p, b[i]);
  }
}

// Where an element of a row of a warp's values is, in the stage that they are left in: the eights of a row are
// permuted, so that the rows that a warp writes at a time lie in different banks.
template <int D>
__device__ inline int left_value(int warp, int row, int column) {
  return (warp * decode_rows + row) * D + (column / 8 ^ row % 8) * 8 + column % 8;
}

template <int D>
__device__ inline void leave_values(const DecodeWarp<D>& w, float* left, int warp) {
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < D / 8; ++j)
      *reinterpret_cast<float2*>(left + left_value<D>(warp, lane_index() / 4 + 8 * i, 8 * j + 2 * (lane_index() % 4))) =
          make_float2(w.out[j][2 * i], w.out[j][2 * i + 1]);
}

template <int D, typename Shared>
__device__ inline void leave_sums(const DecodeWarp<D>& w, Shared& s) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = sum_of_row(w.running.sum[i]);
    if (lane_index() % 4 != 0) continue;
    s.max[warp_index()][lane_index() / 4 + 8 * i] = w.running.max[i];
    s.sum[warp_index()][lane_index() / 4 + 8 * i] = sum;
  }
}

// The four warps' values of an item together, by way of `left`, where `leaving_warps` of them can leave theirs at a time:
// to out if the block has all of the item, or else to the block's piece. Eight threads have a row, each every eighth pair.
template <int D, typename Shared>
__device__ inline void merge_warps(const Step& step, const DecodeRange& item, const DecodeWarp<D>& w, Shared& s,
                                   float* left, Piece<D>* piece) {
  constexpr int warps = attention_threads / warp_size, lanes = attention_threads / decode_rows;
  constexpr int leaving = Shared::leaving_warps, columns = D / (2 * lanes);
  const int row = static_cast<int>(threadIdx.x) / lanes, lane = static_cast<int>(threadIdx.x) % lanes;
  float weights[warps], maximum = minus_infinity, total = 0;
  float2 values[columns] = {};
  leave_sums(w, s);
#pragma unroll
  for (int first = 0; first < warps; first += leaving) {
    __syncthreads();  // until all are done with the stage, or with those who left before
    if (warp_index() / leaving == first / leaving) leave_values<D>(w, left, warp_index() % leaving);
    __syncthreads();
    if (first == 0) {
      for (int i = 0; i < warps; ++i) maximum = fmaxf(maximum, s.max[i][row]);
#pragma unroll
      for (int i = 0; i < warps; ++i) {
        weights[i] = weight_of(s.max[i][row], maximum, step.scale);
        total += weights[i] * s.sum[i][row];
      }
    }
#pragma unroll
    for (int c = 0; c < columns; ++c)
#pragma unroll
      for (int i = 0; i < leaving; ++i) {
        const float2 v = *reinterpret_cast<const float2*>(left + left_value<D>(i, row, 2 * (lane + lanes * c)));
        values[c].x += weights[first + i] * v.x;
        values[c].y += weights[first + i] * v.y;
      }
  }
  if (row >= item.rows.count) return;
  const float factor = total > 0 ? 1.0f / total : 0.0f;
  bf16* out = step.output(item.sequence, item.kv_head, item.rows.first + row);
#pragma unroll
  for (int c = 0; c < columns; ++c) {
    const int column = 2 * (lane + lanes * c);
    if (piece != nullptr) {
      *reinterpret_cast<float2*>(&piece->values[row][column]) = values[c];
    } else {
      store_pair(step, out + column, values[c].x * factor, values[c].y * factor);
    }
  }
  if (piece != nullptr && lane == 0) {
    piece->max[row] = maximum;
    piece->sum[row] = total;
  }
}

__device__ inline int64_t decode_length(const Step& step, int b) {
  return decode_work(read_sequence(step, b), step.group, step.window).length(step.kv_heads);
}

template <typename E, int D, typename Stage>
__device__ inline void fetch_range(Stage& to, const Step& step, const DecodeRange& range) {
  if (range.empty()) return;
  load_range<E, D>(to.keys, step, range.places, 0, range.first_key, range.keys);
  load_range<E, D>(to.values, step, range.places, step.block.keys(), range.first_key, range.keys);
  load_range_scales(to, step, range.places, range.first_key, range.keys);
}

__device__ inline Share block_share(int64_t length) {
  const int64_t blocks = decode_blocks(length, gridDim.x);
  return blockIdx.x < blocks ? decode_split(length, blockIdx.x, blocks) : Share{length, length};
}

// pieces: [gridDim.x · 2]
template <typename E, int D, int stages>
__global__ void __launch_bounds__(attention_threads, 2) decode_kernel(Step step, Piece<D>* pieces) {
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();  // combine_kernel, which is small enough to wait beside these blocks
  auto& s = shared<DecodeShared<E, D, stages>>();
  const Spot spot = find_in_line<attention_threads>(
      step.sequences, s.line, [&](int b) { return decode_length(step, b); },
      [](int64_t length) { return block_share(length).begin; });
  if (spot.sequence < 0) return;
  const Share share = block_share(spot.total);
  const int ranges = static_cast<int>(share.end - share.begin);
  DecodePlanner planner(step, share, spot);
  const int unit = lane_index() % range_units;

  if (warp_index() == 0)
    for (int n = 0; n < stages; ++n) planner.plan(s.plan[n], planner.look_up_unit(unit));
  __syncthreads();
  for (int n = 0; n < stages - 1; ++n) {
    if (n < ranges) fetch_range<E, D>(s.stage[n], step, s.plan[n]);
    cp_async_commit();
  }
  DecodeWarp<D> w;
  for (int n = 0; n < ranges; ++n) {
    cp_async_wait<stages - 2>();
    __syncthreads();
    const int32_t id = warp_index() == 0 ? planner.look_up_unit(unit) : 0;
    const int next = n + stages - 1;
    if (next < ranges) fetch_range<E, D>(s.stage[next % stages], step, s.plan[next % (stages + 1)]);
    cp_async_commit();
    const DecodeRange& range = s.plan[n % (stages + 1)];
    auto& stage = s.stage[n % stages];
    if (range.first) begin_item<D>(w, step, range);
    if (!range.empty()) attend_range<E, D>(w, stage, range.first_key, step);
    if (range.last)
      merge_warps<D>(step, range, w, s, reinterpret_cast<float*>(stage.keys),
                     range.piece < 0 ? nullptr : pieces + range.piece);
    if (warp_index() == 0) planner.plan(s.plan[(n + stages) % (stages + 1)], id);
  }
  cp_async_wait<0>();
}

// --- Pieces --------------------------------------------------------------------------------------------------------

constexpr int combine_threads = decode_rows * warp_size;

struct CombineShared {
  LineShared line;
};

// One row of an item whose pieces are those of blocks first … last, in their order.
template <int D>
__device__ inline void combine_row(const Step& step, const Piece<D>* pieces, const Share& share, int64_t first,
                                   int64_t last, int64_t item_begin, int row, bf16* out) {
  constexpr int columns = D / warp_size;
  const auto piece_of = [&](int64_t block) -> const Piece<D>& {
    return pieces[block == first ? decode_piece(block, share, item_begin) : pieces_per_block * block];
  };
  float maximum = minus_infinity;
  for (int64_t block = first + lane_index(); block <= last; block += warp_size)
    maximum = fmaxf(maximum, piece_of(block).max[row]);
  maximum = warp_max(maximum);
  float sums[columns] = {}, total = 0;
#pragma unroll 4
  for (int64_t block = first; block <= last; ++block) {
    const Piece<D>& piece = piece_of(block);
    const float weight = weight_of(piece.max[row], maximum, step.scale);
    total += weight * piece.sum[row];
#pragma unroll
    for (int c = 0; c < columns; ++c) sums[c] += weight * piece.values[row][columns * lane_index() + c];
  }
  const float factor = total > 0 ? 1.0f / total : 0.0f;
#pragma unroll
  for (int c = 0; c < columns; c += 2)
    store_pair(step, out + columns * lane_index() + c, sums[c] * factor, sums[c + 1] * factor);
}

// Block j looks at the border between the shares of blocks j − 1 and j. If that is the first border inside an item, it
// puts the item together, a warp a row.
template <int D>
__global__ void __launch_bounds__(combine_threads) combine_kernel(Step step, const Piece<D>* pieces) {
  griddepcontrol_wait();
  auto& s = shared<CombineShared>();
  if (blockIdx.x == 0) check_step<combine_threads>(step);  // it has no border
  const auto share_of = [](int64_t block, int64_t length) {
    return decode_split(length, block, decode_blocks(length, gridDim.x));
  };
  const int64_t border = blockIdx.x;
  const Spot spot = find_in_line<combine_threads>(
      step.sequences, s.line, [&](int b) { return decode_length(step, b); },
      [&](int64_t length) {
        return border > 0 && border < decode_blocks(length, gridDim.x) ? share_of(border, length).begin : int64_t{-1};
      });
  if (spot.sequence < 0) return;
  const int64_t at = share_of(border, spot.total).begin;
  const Sequence sequence = read_sequence(step, spot.sequence);
  const DecodeWork work = decode_work(sequence, step.group, step.window);
  const int64_t item = (at - spot.before) / work.ranges, begin = spot.before + item * work.ranges;
  const Share before = share_of(border - 1, spot.total);
  if (at == begin || before.begin > begin) return;
  const int tile = static_cast<int>(item % work.tiles), kv_head = static_cast<int>(item / work.tiles);
  const RowTile rows = row_tile(sequence, step.group, decode_rows, tile);
  const int row = warp_index();
  if (row >= rows.count) return;
  const int64_t last = decode_owner(spot.total, begin + work.ranges - 1, decode_blocks(spot.total, gridDim.x));
  combine_row<D>(step, pieces, before, border - 1, last, begin, row,
                 step.output(sequence, kv_head, rows.first + row));
}

}  // namespace qwen2::cuda
