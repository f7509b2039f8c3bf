// Flash attention (arXiv:2205.14135) with grouped query heads, on dot products of bf16 pairs.
//
// The rows of a tile are (query token, head of the group) pairs that share a KV head. Keys are reduced in chunks of 256 at
// absolute positions; each gives a row its maximum, its sum and its weighted values, and chunks are merged in order. A
// tile either walks its chunks itself (prefill) or leaves them to several threads and merges what they found (decode):
// the arithmetic is the same, so are the bits.
#include "cpu/kv_cache.h"
#include "cpu/simd.h"
#include "ops/attention/sequences.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

constexpr int64_t chunk_keys = 256;
constexpr int64_t chunk_groups = chunk_keys / kv_group;
constexpr int64_t max_tile_rows = 24;
constexpr int group_vectors = kv_group / lanes;
constexpr float minus_infinity = -__builtin_inff();

constexpr int score_rows = lanes == 16 ? 8 : lanes == 8 ? 4 : 2;    // rows of a register tile of scores
constexpr int value_rows = lanes == 16 ? 6 : lanes == 8 ? 4 : 2;    // rows of a register tile of values
constexpr int value_vectors = lanes == 16 ? 4 : 2;

// Everything about the call that does not change from tile to tile.
struct Shape {
  const AttentionArgs& args;
  KvBlock block;
  int64_t heads, group, tile_tokens;

  explicit Shape(const AttentionArgs& a)
      : args(a),
        block{a.num_kv_heads, a.head_dim, a.block_size},
        heads(a.q.shape[1] / a.head_dim),
        group(heads / a.num_kv_heads),
        tile_tokens(max_tile_rows / group > 0 ? max_tile_rows / group : 1) {}

  int64_t D() const { return block.head_dim; }
  int64_t padded() const { return block.padded_dim(); }
  int64_t tile_rows() const { return tile_tokens * group; }
  bool quantized() const { return is_quantized_cache(args.cache_dtype); }
};

// Query tokens first … first + tokens of a sequence, under one KV head.
struct Tile {
  AttentionSequence s;
  int64_t kv_head, first, tokens;

  int64_t rows(const Shape& shape) const { return tokens * shape.group; }
  int64_t end_key() const { return s.position(first + tokens - 1) + 1; }
  int64_t begin_key(const Shape& shape) const { return row_begin(shape, 0); }
  // The keys that the token at `row / group` sees.
  int64_t row_begin(const Shape& shape, int64_t row) const {
    const int64_t begin = row_end(shape, row) - shape.args.window;
    return shape.args.window > 0 && begin > 0 ? begin : 0;
  }
  int64_t row_end(const Shape& shape, int64_t row) const { return s.position(first + row / shape.group) + 1; }
  int64_t first_chunk(const Shape& shape) const { return begin_key(shape) / chunk_keys; }
  int64_t end_chunk() const { return (end_key() + chunk_keys - 1) / chunk_keys; }
  const bf16* query(const Shape& shape, int64_t row) const {
    return shape.args.q.row<bf16>(s.first_query + first + row / shape.group) +
           (kv_head * shape.group + row % shape.group) * shape.D();
  }
  bf16* out(const Shape& shape, int64_t row) const {
    return shape.args.out.row<bf16>(s.first_query + first + row / shape.group) +
           (kv_head * shape.group + row % shape.group) * shape.D();
  }
};

// What is known of a tile's rows after some chunks: softmax weights are relative to exp(max).
struct Partial {
  float* max;     // [rows]
  float* sum;     // [rows]
  float* values;  // [rows, padded D]

  static int64_t floats(const Shape& shape) { return shape.tile_rows() * (shape.padded() + 2); }
  Partial(float* memory, const Shape& shape)
      : max(memory), sum(memory + shape.tile_rows()), values(memory + 2 * shape.tile_rows()) {}
};

// A worker's scratch.
struct Work {
  float* scores;        // [rows, 256]
  float* key_scales;    // [256]: what the products with a chunk's keys are multiplied by to be scores
  float* value_scales;  // [256]: what probabilities are multiplied by to be factors of a chunk's values
  float* partial;
  float* total;
  bf16* probabilities;  // [rows, 256]
  bf16* values;         // a chunk's, if the cache has 8 bits; or else those of a sequence's last group, with zeros for
                        // tokens that are not there
  bf16* keys;           // a chunk's, if the cache has 8 bits

  static size_t bytes(const Shape& shape) {
    const int64_t rows = shape.tile_rows();
    const int64_t floats = (rows + 2) * chunk_keys + 2 * Partial::floats(shape);
    const int64_t halves = rows * chunk_keys + value_elements(shape) + (shape.quantized() ? chunk_keys * shape.D() : 0);
    return static_cast<size_t>(floats) * sizeof(float) + static_cast<size_t>(halves) * sizeof(bf16);
  }
  Work(void* memory, const Shape& shape) {
    const int64_t rows = shape.tile_rows();
    scores = static_cast<float*>(memory);
    key_scales = scores + rows * chunk_keys;
    value_scales = key_scales + chunk_keys;
    partial = value_scales + chunk_keys;
    total = partial + Partial::floats(shape);
    probabilities = reinterpret_cast<bf16*>(total + Partial::floats(shape));
    values = probabilities + rows * chunk_keys;
    keys = values + value_elements(shape);
    for (int64_t j = 0; j < chunk_keys; ++j) {
      key_scales[j] = shape.args.scale;
      value_scales[j] = 1;
    }
  }

 private:
  static int64_t value_elements(const Shape& shape) {
    return (shape.quantized() ? chunk_keys : kv_group) * shape.padded();
  }
};

// The groups of a chunk that a tile needs, with where their keys and values are.
struct Groups {
  int64_t first_key = 0;  // of the chunk
  int64_t begin = 0, end = 0;
  const bf16* keys[chunk_groups];
  const bf16* values[chunk_groups];
};

// Tokens past the context were never written, and 0 · NaN is NaN: the last group's values are copied without them.
const bf16* without_missing_tokens(const Shape& shape, const bf16* values, int64_t tokens, bf16* tail) {
  const int64_t padded = shape.padded();
  for (int64_t i = 0; i < kv_group * padded; ++i) {
    const int64_t token = i / (2 * padded) * 2 + i % 2;
    tail[i] = token < tokens ? values[i] : bf16{0};
  }
  return tail;
}

F32 decode(Int8Kv, I32 bytes) { return to_floats(sub(bytes, splat_int(128))); }
F32 decode(Fp8Kv, I32 bytes) {
  return mul(__builtin_bit_cast(F32, (bytes & 0x80) << 24 | (bytes & 0x7F) << 20), splat(0x1p120f));
}

// Elements of 8 bits in the order that they are in, without their scales.
template <typename E>
void widen(const uint8_t* from, int64_t count, bf16* to) {
  for (int64_t i = 0; i < count; i += lanes) store(to + i, decode(E{}, widen_bytes(from + i)));
}

// Scales of a group of 16 keys, or values. Tokens past the context were never written: theirs are zero.
void load_scales(const float* from, int64_t tokens, float factor, float* to) {
  for (int64_t j = 0; j < kv_group; ++j) to[j] = j < tokens ? from[j] * factor : 0.0f;
}

// A group of a block of 8-bit elements, from place `place` on: as bf16 and with its scales in `work`.
template <typename E>
void widen_group(const Shape& shape, const Tile& tile, const uint8_t* block, int64_t place, int64_t tokens, int64_t group,
                 Groups& groups, const Work& work) {
  bf16* keys = work.keys + group * kv_group * shape.D();
  bf16* values = work.values + group * kv_group * shape.padded();
  widen<E>(block + shape.block.key_group(tile.kv_head, place), kv_group * shape.D(), keys);
  widen<E>(block + shape.block.value_pair(tile.kv_head, place), kv_group * shape.padded(), values);
  groups.keys[group] = keys;
  groups.values[group] = values;
  const auto* scales = reinterpret_cast<const float*>(block + shape.block.elements());
  const KvScales at = shape.block.scales();
  load_scales(scales + at.key(tile.kv_head, place), tokens, shape.args.scale, work.key_scales + group * kv_group);
  load_scales(scales + at.value(tile.kv_head, place), tokens, 1, work.value_scales + group * kv_group);
}

Groups find_groups(const Shape& shape, const Tile& tile, int64_t chunk, const Work& work) {
  Groups groups;
  groups.first_key = chunk * chunk_keys;
  const int64_t low = tile.begin_key(shape) - groups.first_key, high = tile.end_key() - groups.first_key;
  groups.begin = low > 0 ? low / kv_group : 0;
  groups.end = high < chunk_keys ? (high + kv_group - 1) / kv_group : chunk_groups;
  for (int64_t g = groups.begin; g < groups.end; ++g) {
    const int64_t position = groups.first_key + g * kv_group, place = position % shape.args.block_size;
    const uint8_t* block = shape.args.cache.row<uint8_t>(tile.s.blocks[position / shape.args.block_size]);
    const int64_t tokens = tile.s.context - position;
    if (shape.args.cache_dtype == DType::int8) {
      widen_group<Int8Kv>(shape, tile, block, place, tokens, g, groups, work);
    } else if (shape.args.cache_dtype == DType::fp8) {
      widen_group<Fp8Kv>(shape, tile, block, place, tokens, g, groups, work);
    } else {
      const auto* elements = reinterpret_cast<const bf16*>(block);
      groups.keys[g] = elements + shape.block.key_group(tile.kv_head, place);
      groups.values[g] = elements + shape.block.value_pair(tile.kv_head, place);
      if (tokens < kv_group) groups.values[g] = without_missing_tokens(shape, groups.values[g], tokens, work.values);
    }
  }
  return groups;
}

// scores[r][j] = scales[j] · q[r]·k[j] for the 16 tokens j of a group.
template <int rows>
void score_group(const bf16* const* queries, const bf16* keys, int64_t D, const float* scales, float* scores) {
  F32 sums[rows][group_vectors];
  for (auto& row : sums)
    for (F32& sum : row) sum = zero();
  for (int64_t d = 0; d < D; d += 2, keys += 2 * kv_group) {
    Pairs k[group_vectors];
    for (int v = 0; v < group_vectors; ++v) k[v] = load_pairs(keys + v * lanes * 2);
    for (int r = 0; r < rows; ++r) {
      const Pairs q = splat_pair(queries[r] + d);
      for (int v = 0; v < group_vectors; ++v) sums[r][v] = dot(sums[r][v], k[v], q);
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < group_vectors; ++v)
      store(scores + r * chunk_keys + v * lanes, mul(sums[r][v], load(scales + v * lanes)));
}

// Scores of `rows` rows from row r on.
template <int rows>
void score_rows_from(const Shape& shape, const Tile& tile, const Groups& groups, int64_t r, const Work& work) {
  const bf16* queries[rows];
  for (int i = 0; i < rows; ++i) queries[i] = tile.query(shape, r + i);
  for (int64_t g = groups.begin; g < groups.end; ++g)
    score_group<rows>(queries, groups.keys[g], shape.D(), work.key_scales + g * kv_group,
                      work.scores + r * chunk_keys + g * kv_group);
}

void score_chunk(const Shape& shape, const Tile& tile, const Groups& groups, const Work& work) {
  const int64_t rows = tile.rows(shape);
  int64_t r = 0;
  for (; r + score_rows <= rows; r += score_rows) score_rows_from<score_rows>(shape, tile, groups, r, work);
  for (; r < rows; ++r) score_rows_from<1>(shape, tile, groups, r, work);
}

// Scores of a row to probabilities relative to the row's maximum over the chunk, times the scales of the values. The sum is
// of the fp32 probabilities: rounding them to bf16 for the product with V has errors of both signs, and the sum need not
// share them.
void softmax_row(const Shape& shape, const Tile& tile, const Groups& groups, int64_t row, const Work& work,
                 Partial& partial) {
  float* scores = work.scores + row * chunk_keys;
  bf16* probabilities = work.probabilities + row * chunk_keys;
  const int64_t low = groups.begin * kv_group, high = groups.end * kv_group;
  int64_t begin = tile.row_begin(shape, row) - groups.first_key, end = tile.row_end(shape, row) - groups.first_key;
  begin = begin > low ? begin : low;
  end = end < high ? end : high;
  partial.max[row] = minus_infinity;
  partial.sum[row] = 0;
  if (begin >= end) {
    __builtin_memset(probabilities + low, 0, static_cast<size_t>(high - low) * sizeof(bf16));
    return;
  }
  for (int64_t j = low; j < begin; ++j) scores[j] = minus_infinity;
  for (int64_t j = end; j < high; ++j) scores[j] = minus_infinity;
  F32 largest = load(scores + low);
  for (int64_t j = low + lanes; j < high; j += lanes) largest = max(largest, load(scores + j));
  partial.max[row] = max_lane(largest);
  const F32 maximum = splat(partial.max[row]);
  F32 sums = zero();
  for (int64_t j = low; j < high; j += lanes) {
    const F32 p = exp(sub(load(scores + j), maximum));
    sums = add(sums, p);
    store(probabilities + j, mul(p, load(work.value_scales + j)));
  }
  partial.sum[row] = sum(sums);
}

// values[r][d …) = Σ over tokens of p[r]·v, for `rows` rows and `vectors` vectors of dimensions.
template <int rows, int vectors>
void weigh_values(const Groups& groups, const bf16* probabilities, int64_t padded, int64_t d, float* values) {
  F32 sums[rows][vectors];
  for (auto& row : sums)
    for (F32& sum : row) sum = zero();
  for (int64_t g = groups.begin; g < groups.end; ++g)
    for (int64_t j = 0; j < kv_group; j += 2) {
      const bf16* pair = groups.values[g] + j * padded + d * 2;
      Pairs v[vectors];
      for (int i = 0; i < vectors; ++i) v[i] = load_pairs(pair + i * lanes * 2);
      for (int r = 0; r < rows; ++r) {
        const Pairs p = splat_pair(probabilities + r * chunk_keys + g * kv_group + j);
        for (int i = 0; i < vectors; ++i) sums[r][i] = dot(sums[r][i], v[i], p);
      }
    }
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < vectors; ++i) store(values + r * padded + d + i * lanes, sums[r][i]);
}

template <int rows>
void weigh_rows(const Groups& groups, const bf16* probabilities, int64_t padded, float* values) {
  int64_t d = 0;
  for (; d + value_vectors * lanes <= padded; d += value_vectors * lanes)
    weigh_values<rows, value_vectors>(groups, probabilities, padded, d, values);
  for (; d < padded; d += lanes) weigh_values<rows, 1>(groups, probabilities, padded, d, values);
}

// One chunk of one tile.
void attend_chunk(const Shape& shape, const Tile& tile, int64_t chunk, const Work& work, Partial partial) {
  const Groups groups = find_groups(shape, tile, chunk, work);
  const int64_t rows = tile.rows(shape), padded = shape.padded();
  score_chunk(shape, tile, groups, work);
  for (int64_t r = 0; r < rows; ++r) softmax_row(shape, tile, groups, r, work, partial);
  int64_t r = 0;
  for (; r + value_rows <= rows; r += value_rows)
    weigh_rows<value_rows>(groups, work.probabilities + r * chunk_keys, padded, partial.values + r * padded);
  for (; r < rows; ++r)
    weigh_rows<1>(groups, work.probabilities + r * chunk_keys, padded, partial.values + r * padded);
}

// e^x as the kernel's vectors compute it.
float exp_scalar(float x) {
  float lane[lanes];
  store(lane, exp(splat(x)));
  return lane[0];
}

// total ← total and part together. A row that saw no key of the part stays as it was.
void merge(const Shape& shape, int64_t rows, const Partial& part, Partial& total) {
  const int64_t padded = shape.padded();
  for (int64_t r = 0; r < rows; ++r) {
    if (part.max[r] == minus_infinity) continue;
    const float largest = total.max[r] > part.max[r] ? total.max[r] : part.max[r];
    const float keep = total.max[r] == minus_infinity ? 0 : exp_scalar(total.max[r] - largest);
    const float take = exp_scalar(part.max[r] - largest);
    total.max[r] = largest;
    total.sum[r] = total.sum[r] * keep + part.sum[r] * take;
    const F32 keep_all = splat(keep), take_all = splat(take);
    for (int64_t d = 0; d < padded; d += lanes) {
      float* values = total.values + r * padded + d;
      store(values, add(mul(load(values), keep_all), mul(load(part.values + r * padded + d), take_all)));
    }
  }
}

void clear(const Shape& shape, Partial& total) {
  for (int64_t r = 0; r < shape.tile_rows(); ++r) {
    total.max[r] = minus_infinity;
    total.sum[r] = 0;
  }
  __builtin_memset(total.values, 0, static_cast<size_t>(shape.tile_rows() * shape.padded()) * sizeof(float));
}

void write_out(const Shape& shape, const Tile& tile, const Partial& total) {
  const int64_t D = shape.D();
  for (int64_t r = 0; r < tile.rows(shape); ++r) {
    const F32 scale = splat(1.0f / total.sum[r]);
    const float* values = total.values + r * shape.padded();
    bf16* out = tile.out(shape, r);
    for (int64_t d = 0; d < D; d += lanes)
      store(out + d, mul(load(values + d), scale), static_cast<int>(D - d < lanes ? D - d : lanes));
  }
}

void attend_tile(const Shape& shape, const Tile& tile, const Work& work) {
  Partial part(work.partial, shape), total(work.total, shape);
  clear(shape, total);
  for (int64_t chunk = tile.first_chunk(shape); chunk < tile.end_chunk(); ++chunk) {
    attend_chunk(shape, tile, chunk, work, part);
    merge(shape, tile.rows(shape), part, total);
  }
  write_out(shape, tile, total);
}

int64_t tiles_of(const Shape& shape, const AttentionSequence& s) {
  return s.context == 0 ? 0 : (s.queries + shape.tile_tokens - 1) / shape.tile_tokens;
}

// Tile `index` of all: sequences in order, tiles of a sequence from its end (the longest first), KV heads innermost.
Tile find_tile(const Shape& shape, int64_t index) {
  const int64_t kv_heads = shape.args.num_kv_heads;
  int64_t tile = index / kv_heads;
  for (int64_t b = 0;; ++b) {
    const AttentionSequence s = attention_sequence(shape.args, b);
    const int64_t count = tiles_of(shape, s);
    if (tile >= count) {
      tile -= count;
      continue;
    }
    const int64_t first = (count - 1 - tile) * shape.tile_tokens;
    const int64_t tokens = s.queries - first < shape.tile_tokens ? s.queries - first : shape.tile_tokens;
    return {s, index % kv_heads, first, tokens};
  }
}

// Few tiles, long contexts: chunks of all tiles are the work items; their results are merged tile by tile.
void attend_split(Context& context, const Shape& shape, int64_t tiles, int64_t chunks) {
  const int64_t floats = Partial::floats(shape);
  auto* parts =
      static_cast<float*>(context.scratch(-1, static_cast<size_t>(tiles * chunks * floats) * sizeof(float)));
  parallel(context, tiles * chunks, 1, [&](int64_t begin, int64_t end, int worker) {
    const Work work(context.scratch(worker, Work::bytes(shape)), shape);
    for (int64_t i = begin; i < end; ++i) {
      const Tile tile = find_tile(shape, i / chunks);
      const int64_t chunk = tile.first_chunk(shape) + i % chunks;
      if (chunk < tile.end_chunk()) attend_chunk(shape, tile, chunk, work, Partial(parts + i * floats, shape));
    }
  });
  parallel(context, tiles, 1, [&](int64_t begin, int64_t end, int worker) {
    const Work work(context.scratch(worker, Work::bytes(shape)), shape);
    for (int64_t i = begin; i < end; ++i) {
      const Tile tile = find_tile(shape, i);
      Partial total(work.total, shape);
      clear(shape, total);
      const int64_t count = tile.end_chunk() - tile.first_chunk(shape);
      for (int64_t c = 0; c < count; ++c)
        merge(shape, tile.rows(shape), Partial(parts + (i * chunks + c) * floats, shape), total);
      write_out(shape, tile, total);
    }
  });
}

}  // namespace

void attention(Context& context, const AttentionArgs& args) {
  require_bf16("attention", args.q);
  check_sequences(args);
  const Shape shape(args);
  int64_t tiles = 0, most_chunks = 0;
  for (int64_t b = 0; b < args.context_lengths.shape[0]; ++b) {
    const AttentionSequence s = attention_sequence(args, b);
    const int64_t of_sequence = tiles_of(shape, s);
    tiles += of_sequence * args.num_kv_heads;
    if (of_sequence > 0 && s.context / chunk_keys + 1 > most_chunks) most_chunks = s.context / chunk_keys + 1;
    if (s.context == 0)
      for (int64_t t = s.first_query; t < s.first_query + s.queries; ++t)
        __builtin_memset(args.out.row<bf16>(t), 0, static_cast<size_t>(args.out.shape[1]) * sizeof(bf16));
  }
  // Enough tiles to keep the threads evenly busy?
  if (tiles >= 4 * context.threads() || most_chunks == 1 || context.threads() == 1) {
    parallel(context, tiles, 1, [&](int64_t begin, int64_t end, int worker) {
      const Work work(context.scratch(worker, Work::bytes(shape)), shape);
      for (int64_t i = begin; i < end; ++i) attend_tile(shape, find_tile(shape, i), work);
    });
  } else {
    attend_split(context, shape, tiles, most_chunks);
  }
}

}  // namespace qwen2::cpu::QWEN2_SIMD
