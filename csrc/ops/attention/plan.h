// What CUDA's attention has to do, as functions of shapes and lengths that host and device share.
//
// The queries of a sequence under one KV head are packed: row r is head r % group of its query token r / group. Tiles
// are consecutive rows, so a group of 7 heads wastes nothing.
#pragma once

#include <cstdint>

namespace qwen2::cuda {

constexpr int range_keys = 64;  // keys are reduced in ranges at multiples of this
constexpr int unit_keys = 16;   // that lie together in a block of the cache, whatever its size
constexpr int range_units = range_keys / unit_keys;
constexpr int decode_rows = 16;

template <typename T>
constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

// Query rows [first_query, first_query + queries) of the step are the last of `context` tokens.
struct Sequence {
  int first_query, queries, context;
  constexpr int position(int token) const { return context - queries + token; }
};

// Positions begin … end − 1.
struct Keys {
  int begin, end;
  constexpr bool contains(int key) const { return begin <= key && key < end; }
  constexpr bool overlaps(int first, int count) const { return first < end && begin < first + count; }
};

// What the query token sees; window 0: all up to itself. Padding sees nothing.
constexpr Keys keys_of_token(const Sequence& s, int token, int window) {
  if (s.context == 0) return {0, 0};
  const int end = s.position(token) + 1;
  return {window > 0 && end > window ? end - window : 0, end};
}

// Consecutive rows of a sequence under one KV head.
struct RowTile {
  int first, count;
  // What any of the rows sees, and what all of them see.
  constexpr Keys any(const Sequence& s, int group, int window) const {
    return {keys_of_token(s, first / group, window).begin, keys_of_token(s, last_token(group), window).end};
  }
  constexpr Keys all(const Sequence& s, int group, int window) const {
    return {keys_of_token(s, last_token(group), window).begin, keys_of_token(s, first / group, window).end};
  }
  constexpr int last_token(int group) const { return (first + count - 1) / group; }
};

constexpr RowTile row_tile(const Sequence& s, int group, int rows, int tile) {
  const int first = tile * rows, left = s.queries * group - first;
  return {first, left < rows ? left : rows};
}

// --- Prefill: a block a tile and KV head ---------------------------------------------------------------------------

constexpr int prefill_tiles(const Sequence& s, int group, int rows) { return ceil_div(s.queries * group, rows); }

// As many tiles as there can be, whatever the lengths: every sequence ends with at most one that is not full.
constexpr int64_t prefill_tile_bound(int64_t tokens, int64_t sequences, int64_t group, int64_t rows) {
  const int64_t bound = tokens * group / rows + sequences;
  return bound < tokens * group ? bound : tokens * group;
}

// --- Decode: all the work in one line, cut into equal shares -------------------------------------------------------

// A sequence has kv_heads · tiles items, each of which walks the same ranges; padding has one range of no keys.
struct DecodeWork {
  int tiles;
  int first_range, ranges;
  constexpr int64_t length(int kv_heads) const { return int64_t{kv_heads} * tiles * ranges; }
};

constexpr DecodeWork decode_work(const Sequence& s, int group, int window) {
  if (s.queries == 0) return {0, 0, 0};
  const int first = keys_of_token(s, 0, window).begin / range_keys, end = ceil_div(s.context, range_keys);
  return {ceil_div(s.queries * group, decode_rows), first, end > first ? end - first : 1};
}

struct Share {
  int64_t begin, end;
};

// More blocks than ranges would leave holes between the shares.
constexpr int64_t decode_blocks(int64_t length, int64_t blocks) { return length < blocks ? length : blocks; }

// The share of a line of `length` ranges that block `block` of decode_blocks has.
constexpr Share decode_split(int64_t length, int64_t block, int64_t blocks) {
  return {length * block / blocks, length * (block + 1) / blocks};
}

// The block whose share has the place.
constexpr int64_t decode_owner(int64_t length, int64_t place, int64_t blocks) {
  return ((place + 1) * blocks - 1) / length;
}

// A block leaves at most two pieces of items that it shares with others: of one that began before its share, and of one
// that goes on behind it.
constexpr int64_t pieces_per_block = 2;
constexpr int64_t decode_piece(int64_t block, const Share& share, int64_t item_begin) {
  return pieces_per_block * block + (share.begin > item_begin ? 0 : 1);
}

// Decode where queries are few a sequence, or all of them are one tile of prefill: splitting the keys is then what
// fills the device.
constexpr bool splits_keys(int64_t tokens, int64_t sequences, int64_t group) {
  return tokens <= 2 * sequences || tokens * group <= 64;
}

// --- Batch-invariant: chunks of keys at absolute positions ---------------------------------------------------------

constexpr int chunk_ranges = 8;
constexpr int chunk_keys = chunk_ranges * range_keys;
constexpr int invariant_rows = 64;  // of a tile

// A sequence's tiles each have these chunks, and some no keys of some of them; padding has none.
struct ChunkWork {
  int tiles;
  int first_chunk, chunks;
  constexpr int64_t length(int kv_heads) const { return int64_t{kv_heads} * tiles * chunks; }
};

constexpr ChunkWork chunk_work(const Sequence& s, int group, int window) {
  if (s.queries == 0 || s.context == 0) return {0, 0, 0};
  const int first = keys_of_token(s, 0, window).begin / chunk_keys, end = ceil_div(s.context, chunk_keys);
  return {ceil_div(s.queries * group, invariant_rows), first, end - first};
}

// The ranges of a chunk that have any of the keys: begin … end − 1.
constexpr Keys ranges_of_chunk(const Keys& keys, int chunk) {
  const int first = keys.begin / range_keys, last = ceil_div(keys.end, range_keys);
  const int begin = first > chunk * chunk_ranges ? first : chunk * chunk_ranges;
  const int end = last < (chunk + 1) * chunk_ranges ? last : (chunk + 1) * chunk_ranges;
  return {begin, end > begin ? end : begin};
}

constexpr int64_t most_row_piece_bytes = int64_t{64} << 20;

// Whether chunks are work of their own: where tiles are fewer than the blocks that the device holds, and what every chunk
// that the block tables have room for may leave of every row finds room.
constexpr bool splits_chunks(int64_t tiles, int64_t blocks, int64_t row_piece_bytes) {
  return tiles < blocks && row_piece_bytes <= most_row_piece_bytes;
}

namespace plan_test {

constexpr bool shares_cover_once(int64_t length, int64_t device_blocks) {
  const int64_t blocks = decode_blocks(length, device_blocks);
  int64_t at = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const Share share = decode_split(length, block, blocks);
    const int64_t size = share.end - share.begin;
    if (share.begin != at || size < 1 || size < length / blocks || size > length / blocks + 1) return false;
    for (; at < share.end; ++at)
      if (decode_owner(length, at, blocks) != block) return false;
  }
  return at == length;
}

constexpr bool all_lengths_are_covered(int64_t lengths, int64_t blocks) {
  for (int64_t length = 0; length <= lengths; ++length)
    if (!shares_cover_once(length, blocks)) return false;
  return true;
}

static_assert(all_lengths_are_covered(70, 1) && all_lengths_are_covered(70, 6) && all_lengths_are_covered(70, 33));
static_assert(shares_cover_once(5000, 264) && shares_cover_once(263, 264) && shares_cover_once(265, 264));
static_assert(decode_work({0, 1, 64}, 8, 0).ranges == 1 && decode_work({0, 1, 65}, 8, 0).ranges == 2);
static_assert(decode_work({0, 1, 129}, 8, 1).first_range == 2 && decode_work({0, 1, 129}, 8, 2).first_range == 1);
static_assert(decode_work({0, 2, 0}, 8, 0).ranges == 1 && decode_work({0, 0, 9}, 8, 0).length(4) == 0);
static_assert(decode_work({0, 3, 9}, 7, 0).tiles == 2);

// Every range of a tile is in one of its sequence's chunks, once, and every chunk of a row's keys is among them.
constexpr bool chunks_cover_once(const Sequence& s, int group, int window) {
  const ChunkWork work = chunk_work(s, group, window);
  for (int tile = 0; tile < work.tiles; ++tile) {
    const RowTile rows = row_tile(s, group, invariant_rows, tile);
    const Keys any = rows.any(s, group, window);
    int next = any.begin / range_keys;
    for (int chunk = work.first_chunk; chunk < work.first_chunk + work.chunks; ++chunk) {
      const Keys ranges = ranges_of_chunk(any, chunk);
      if (ranges.begin == ranges.end) continue;
      if (ranges.begin != next || ranges.begin / chunk_ranges != chunk || (ranges.end - 1) / chunk_ranges != chunk)
        return false;
      next = ranges.end;
    }
    if (next != ceil_div(any.end, range_keys)) return false;
    for (int row = rows.first; row < rows.first + rows.count; row += group) {
      const Keys keys = keys_of_token(s, row / group, window);
      for (int chunk = keys.begin / chunk_keys; chunk < ceil_div(keys.end, chunk_keys); ++chunk)
        if (ranges_of_chunk(any, chunk).begin == ranges_of_chunk(any, chunk).end) return false;
    }
  }
  return true;
}

constexpr bool chunks_cover_all_once() {
  for (int window : {0, 1, 64, 500, 513})
    for (int context : {1, 64, 511, 512, 513, 1025, 2000})
      for (int queries : {1, 9, 40})
        if (queries <= context && !chunks_cover_once({0, queries, context}, 7, window)) return false;
  return true;
}

static_assert(chunks_cover_all_once());
static_assert(chunk_work({0, 1, 513}, 8, 0).chunks == 2 && chunk_work({0, 1, 513}, 8, 1).first_chunk == 1);
static_assert(chunk_work({0, 2, 0}, 8, 0).length(4) == 0 && chunk_work({0, 0, 9}, 8, 0).length(4) == 0);

}  // namespace plan_test
}  // namespace qwen2::cuda
