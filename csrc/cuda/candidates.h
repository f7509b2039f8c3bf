// The most probable tokens of a row, found by one block without sorting the row. Shared by sample and token_logprobs.
//
// A token's code is its logit's key, then its id counted down: codes are distinct, and they fall in the order of
// probability, of equal logits the lower id first. So "the k most probable" and "the smallest set of mass m" are both
// the codes from an edge up. An edge is found by counting codes in 1024 buckets of a range, then in 1024 of the bucket
// in which the set ends, and so on; most often two rounds do.
// Codes are read again each round, from the blocks of logits (64 ids) whose maximum reaches a floor: where the floor is
// good, they are few and in L1.
#pragma once

#include "core/error.h"
#include "cuda/logits.h"
#include "cuda/shared.h"

namespace qwen2::cuda {

using Code = Wide;
constexpr uint32_t lowest_key = 0x00800000u;  // of the lowest finite float: −∞ is no candidate

struct Codes {
  int id_bits;

  __device__ Code id_mask() const { return (Code{1} << id_bits) - 1; }
  __device__ Code of(float x, int64_t id) const {
    return Code{key_of(x)} << id_bits | (id_mask() - static_cast<Code>(id));
  }
  // The lowest and the highest of a key.
  __device__ Code floor(uint32_t key) const { return Code{key} << id_bits; }
  __device__ Code ceiling(float x) const { return of(x, 0); }
  __device__ uint32_t key(Code code) const { return static_cast<uint32_t>(code >> id_bits); }
  __device__ float logit(Code code) const { return float_of(key(code)); }
  __device__ int32_t id(Code code) const { return static_cast<int32_t>(id_mask() - (code & id_mask())); }
};

__device__ inline Codes codes_of(int64_t chunks) { return {32 - __clz(static_cast<int>(chunks * logits_chunk - 1))}; }

// --- Shared memory ---------------------------------------------------------------------------------------------------

constexpr int row_buckets = 1024;
// Candidates that are few enough to be compared each with each: at most one a thread.
constexpr int most_few = 256;

// Of a block that works on a row.
struct RowShared {
  ScanShared scan;
  Mass masses[row_buckets];
  unsigned members[row_buckets];
  Code few[most_few];
  Mass few_masses[most_few];
  // The bucket in which the set ends, its members, and what the buckets in front of it hold.
  int bucket;
  unsigned bucket_members;
  Mass reached;
  // What one thread finds out for all.
  Code found;
  double log_sum, part;
};

// Behind it lie the numbers of blocks of logits, ascending.
__device__ inline uint32_t* listed_blocks() { return reinterpret_cast<uint32_t*>(&shared<RowShared>() + 1); }

// A small vocabulary takes a small block.
inline unsigned row_threads(int64_t chunks) { return chunks <= 4 ? 64 : 512; }
constexpr int most_row_threads = 512;

inline size_t row_shared_bytes(int64_t chunks) {
  return sizeof(RowShared) + static_cast<size_t>(chunks) * chunk_blocks * sizeof(uint32_t);
}

// The list of blocks grows with the vocabulary; a million tokens is what the least device has shared memory for.
inline void require_vocabulary(const char* op, const Context& context, int64_t vocabulary) {
  const size_t bytes = row_shared_bytes(chunks_of(vocabulary)), most = context.device().shared_bytes_per_block;
  if (bytes > most)
    fail("unsupported", "%s: a vocabulary of %lld tokens takes %zu bytes of shared memory, of which %s has %zu", op,
         static_cast<long long>(vocabulary), bytes, context.device().name, most);
}

// Threads that hold a candidate each.
__device__ inline int few_limit() {
  const int threads = static_cast<int>(blockDim.x);
  return most_few < threads ? most_few : threads;
}

// --- Blocks of logits ------------------------------------------------------------------------------------------------

// A thread's part of a tile: consecutive ids, an eighth of a block. Of 512 threads a tile is 64 blocks, most often all
// that are listed.
constexpr int part_quads = 2;
constexpr int part_ids = 4 * part_quads;
constexpr int block_parts = logits_block / part_ids;
using PartLogits = float[part_quads][4];

// Logits as they came.
struct RawLogits {
  const float* logits;  // [size]
  int64_t size;
  bool aligned;

  __device__ void load(PartLogits& x, int64_t first) const {
    load_quads<false, 4>(x, logits, first, size, aligned, -infinity);
  }
};

// Lists the blocks whose maximum has at least `floor`; returns how many.
__device__ __attribute__((noinline)) inline int list_blocks(const Survey& survey, int64_t chunks, uint32_t floor) {
  constexpr int own = 8;  // consecutive, so that all of Qwen2's vocabulary is listed in one round
  uint32_t* blocks = listed_blocks();
  const int64_t size = chunks * chunk_blocks;
  int listed = 0;
  for (int64_t start = 0; start < size; start += blockDim.x * own) {
    const int64_t first = start + threadIdx.x * own;
    unsigned reaching = 0;
    if (first < size)  // and so are all eight
      for (int i = 0; i < own; ++i)
        if (key_of(survey.block_maxima[first + i]) >= floor) reaching |= 1u << i;
    const Scan scan = block_scan(static_cast<Wide>(__popc(reaching)), shared<RowShared>().scan);
    int at = listed + static_cast<int>(scan.before);
    for (int i = 0; i < own; ++i)
      if (reaching >> i & 1u) blocks[at++] = static_cast<uint32_t>(first + i);
    listed += static_cast<int>(scan.total);
  }
  __syncthreads();
  return listed;
}

// Lists the blocks of one chunk.
__device__ inline int list_chunk(int64_t chunk) {
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x);
  if (i < chunk_blocks) listed_blocks()[i] = static_cast<uint32_t>(chunk * chunk_blocks + i);
  __syncthreads();
  return chunk_blocks;
}

// The candidates of the listed blocks, in tiles of a part a thread, in the order of ids.
template <typename Logits>
struct Candidates {
  const Logits& logits;
  const Codes& codes;
  int listed;

  // visit(x, id of x[0][0]), once a tile by all threads, as long as it is true; a part that is not there is −∞.
  template <typename Visit>
  __device__ void each_tile(const Visit& visit) const {
    const int parts = listed * block_parts;
    for (int tile = 0; tile < parts; tile += static_cast<int>(blockDim.x)) {
      const int at = tile + static_cast<int>(threadIdx.x);
      PartLogits x;
      int64_t first = 0;
      if (at < parts) {
        first = int64_t{listed_blocks()[at / block_parts]} * logits_block + at % block_parts * part_ids;
        logits.load(x, first);
      } else {
        for (auto& quad : x)
          for (float& logit : quad) logit = -infinity;
      }
      if (!visit(x, first)) return;
    }
  }
  // visit(code, logit) of this thread's.
  template <typename Visit>
  __device__ void each(const Visit& visit) const {
    each_tile([&](const PartLogits& x, int64_t first) {
      for (int i = 0; i < part_ids; ++i) visit(codes.of(x[i / 4][i % 4], first + i), x[i / 4][i % 4]);
      return true;
    });
  }
};

// The maxima of all blocks, as candidates: they are distinct tokens. Ids are the blocks'.
struct BlockMaxima {
  const Survey& survey;
  int64_t chunks;
  const Codes& codes;

  template <typename Visit>
  __device__ void each(const Visit& visit) const {
    for (int64_t b = threadIdx.x; b < chunks * chunk_blocks; b += blockDim.x)
      visit(codes.of(survey.block_maxima[b], b), survey.block_maxima[b]);
  }
  __device__ Code lowest() const {
    uint32_t low = ~0u;
    each([&](Code code, float) {
      const uint32_t key = codes.key(code);
      if (key >= lowest_key && key < low) low = key;
    });
    return codes.floor(~static_cast<uint32_t>(block_max(~low, shared<RowShared>().scan)));
  }
};

// --- Edges -----------------------------------------------------------------------------------------------------------

// What makes a set of the most probable large enough.
struct Measure {
  Weigher weigh;
  bool weighs;  // its mass, or else how many they are

  __device__ static Measure count() { return {{}, false}; }
  __device__ static Measure mass(const Weigher& weigh) { return {weigh, true}; }
};

struct Edge {
  Code low;     // the set's least probable code, or with slack one below it
  bool exists;  // or all candidates together are not enough
};

// How far to shift a range so that less than `row_buckets` remains of it.
__device__ inline int bucket_shift(Code range) {
  int shift = 0;
  while (range >> shift >= row_buckets) ++shift;
  return shift;
}

// Finds the bucket in which what is reached grows to `wanted`.
__device__ inline void find_bucket(bool weighs, Mass reached, Mass wanted) {
  RowShared& s = shared<RowShared>();
  const int own = row_buckets / static_cast<int>(blockDim.x), first = static_cast<int>(threadIdx.x) * own;
  const auto measure = [&](int bucket) { return weighs ? s.masses[bucket] : Mass{s.members[bucket]}; };
  Mass mine = 0;
  for (int i = 0; i < own; ++i) mine += measure(first + i);
  Mass at = reached + block_scan(mine, s.scan).before;
  if (at < wanted && at + mine >= wanted) {
    int bucket = first;
    for (; at + measure(bucket) < wanted; ++bucket) at += measure(bucket);
    s.bucket = bucket;
    s.bucket_members = s.members[bucket];
    s.reached = at;
  }
  __syncthreads();
}

// Finds where the most probable of the candidates with codes of low … high have `wanted` (at least 1) by `measure`. A
// bucket of at most `slack` (at least 1) members is not divided further. All threads of the block call it.
template <typename Source>
__device__ __attribute__((noinline)) Edge find_edge(const Source& source, Measure measure, Code low, Code high,
                                                    Mass wanted, unsigned slack) {
  RowShared& s = shared<RowShared>();
  Mass reached = 0;
  for (;;) {
    const int shift = bucket_shift(high - low);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < row_buckets; i += static_cast<int>(blockDim.x)) {
      s.members[i] = 0;
      s.masses[i] = 0;
    }
    if (threadIdx.x == 0) s.bucket = -1;
    __syncthreads();
    source.each([&](Code code, float x) {
      if (code < low || code > high) return;
      const int bucket = static_cast<int>((high - code) >> shift);
      atomicAdd(&s.members[bucket], 1u);
      if (measure.weighs) atomicAdd(&s.masses[bucket], measure.weigh(x));
    });
    __syncthreads();
    find_bucket(measure.weighs, reached, wanted);
    if (s.bucket < 0) return {low, false};
    high -= static_cast<Code>(s.bucket) << shift;
    const Code bucket_low = high - ((Code{1} << shift) - 1);
    if (high >= (Code{1} << shift) && bucket_low > low) low = bucket_low;
    reached = s.reached;
    const unsigned members = s.bucket_members;
    if (members <= slack || (!measure.weighs && reached + members == wanted)) return {low, true};
  }
}

// A key that at least `wanted` tokens reach, and not many more.
__device__ inline uint32_t floor_of_top(const Survey& survey, int64_t chunks, const Codes& codes, float max,
                                        int64_t wanted) {
  constexpr unsigned slack = 16;
  if (wanted > chunks * chunk_blocks) return lowest_key;
  const BlockMaxima maxima{survey, chunks, codes};
  const Edge edge = find_edge(maxima, Measure::count(), maxima.lowest(), codes.ceiling(max),
                              static_cast<Mass>(wanted), slack);
  return edge.exists ? codes.key(edge.low) : lowest_key;
}

// --- Few candidates --------------------------------------------------------------------------------------------------

// Gathers the codes of low … high − 1 in the order of ids; returns how many there are, or more than `few_limit()` if
// they are not few.
template <typename Logits>
__device__ int gather_few(const Candidates<Logits>& candidates, Code low, Code high) {
  RowShared& s = shared<RowShared>();
  int gathered = 0;
  const auto holds = [&](Code code) { return code >= low && code < high; };
  candidates.each_tile([&](const PartLogits& x, int64_t first) {
    unsigned own = 0;
    for (int i = 0; i < part_ids; ++i)
      if (holds(candidates.codes.of(x[i / 4][i % 4], first + i))) own |= 1u << i;
    const Scan scan = block_scan(static_cast<Wide>(__popc(own)), s.scan);
    int at = gathered + static_cast<int>(scan.before);
    for (int i = 0; i < part_ids; ++i) {
      if (!(own >> i & 1u)) continue;
      if (at < few_limit()) s.few[at] = candidates.codes.of(x[i / 4][i % 4], first + i);
      ++at;
    }
    gathered += static_cast<int>(scan.total);
    return gathered <= few_limit();
  });
  __syncthreads();
  return gathered;
}

// How many of the few are more probable.
__device__ inline int rank_among_few(Code code, int count) {
  int rank = 0;
  for (int i = 0; i < count; ++i) rank += shared<RowShared>().few[i] > code;
  return rank;
}

// --- Ranks and alternatives ------------------------------------------------------------------------------------------

// 1 + how many logits are larger.
__device__ inline int32_t rank_of(const Survey& survey, int64_t chunks, const RawLogits& logits, const Codes& codes,
                                  float logit) {
  const uint32_t floor = key_of(logit) + 1;
  const Candidates<RawLogits> candidates{logits, codes, list_blocks(survey, chunks, floor)};
  Wide larger = 0;
  candidates.each([&](Code code, float) { larger += codes.key(code) >= floor; });
  return 1 + static_cast<int32_t>(block_scan(larger, shared<RowShared>().scan).total);
}

// A row's alternatives.
struct Top {
  int32_t* ids;     // [wanted]
  float* logprobs;  // [wanted]
  int64_t wanted;
};

// Tokens of −∞, in the order of ids, from place `written` on.
__device__ inline void write_impossible(const Top& top, const RawLogits& logits, int64_t written) {
  for (int64_t start = 0; start < logits.size && written < top.wanted; start += blockDim.x) {
    const int64_t v = start + threadIdx.x;
    const bool impossible = v < logits.size && logits.logits[v] == -infinity;
    const Scan scan = block_scan(impossible, shared<RowShared>().scan);
    const int64_t at = written + static_cast<int64_t>(scan.before);
    if (impossible && at < top.wanted) {
      top.ids[at] = static_cast<int32_t>(v);
      top.logprobs[at] = -infinity;
    }
    written += static_cast<int64_t>(scan.total);
  }
}

// Writes the most probable tokens and their log-probabilities, a few at a time, of equal logits the lower id first.
__device__ inline void write_top(const Top& top, const Survey& survey, int64_t chunks, const RawLogits& logits,
                                 const Codes& codes, float max, double log_sum) {
  RowShared& s = shared<RowShared>();
  Code high = codes.ceiling(max) + 1;  // what is below it is still to be written
  int64_t written = 0;
  while (written < top.wanted) {
    const int64_t left = top.wanted - written;
    const int take = left < few_limit() ? static_cast<int>(left) : few_limit();
    const uint32_t floor = written == 0 ? floor_of_top(survey, chunks, codes, max, take) : lowest_key;
    Code low = codes.floor(floor);
    const Candidates<RawLogits> candidates{logits, codes, list_blocks(survey, chunks, floor)};
    int count = gather_few(candidates, low, high);
    if (count > few_limit()) {
      low = find_edge(candidates, Measure::count(), low, high - 1, static_cast<Mass>(take), 1).low;
      count = gather_few(candidates, low, high);
    }
    const int i = static_cast<int>(threadIdx.x);
    if (i < count) {
      const Code code = s.few[i];
      const int rank = rank_among_few(code, count);
      if (rank < take) {
        top.ids[written + rank] = codes.id(code);
        // One subtraction in double: both may be large.
        top.logprobs[written + rank] = static_cast<float>(codes.logit(code) - log_sum);
      }
      if (rank == take - 1) s.found = code;
    }
    __syncthreads();
    if (count < take) {
      write_impossible(top, logits, written + count);
      return;
    }
    high = s.found;
    written += take;
  }
}

}  // namespace qwen2::cuda
