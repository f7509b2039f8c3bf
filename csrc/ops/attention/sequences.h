// Reading a step's sequences, and refusing what can't be one: shared by the host devices.
//
// Static, because it is compiled for several instruction sets.
#pragma once

#include "core/error.h"
#include "ops/attention/attention.h"

namespace qwen2 {

// One sequence of the step.
struct AttentionSequence {
  int64_t first_query, queries;  // rows of q
  int64_t context;               // keys
  const int32_t* blocks;

  // Position of query i of the sequence.
  int64_t position(int64_t i) const { return context - queries + i; }
};

static inline AttentionSequence attention_sequence(const AttentionArgs& args, int64_t b) {
  const int32_t* starts = args.query_starts.as<int32_t>();
  return {starts[b], int64_t{starts[b + 1]} - starts[b], args.context_lengths.as<int32_t>()[b],
          args.block_tables.row<int32_t>(b)};
}

// Throws what the contract calls data errors.
static inline void check_sequences(const AttentionArgs& args) {
  const int64_t B = args.context_lengths.shape[0], T = args.q.shape[0];
  const int64_t cache_blocks = args.cache.shape[0], table_blocks = args.block_tables.shape[1];
  const int32_t* starts = args.query_starts.as<int32_t>();
  if (starts[0] != 0 || starts[B] != T)
    fail("invalid_argument", "query_starts must go from 0 to T = %lld, they go from %d to %d",
         static_cast<long long>(T), starts[0], starts[B]);
  for (int64_t b = 0; b < B; ++b) {
    const AttentionSequence s = attention_sequence(args, b);
    const auto row = static_cast<long long>(b);
    if (s.queries < 0) fail("invalid_argument", "query_starts falls at row %lld", row);
    if (s.context == 0) continue;
    if (s.context < s.queries)
      fail("invalid_argument", "context_lengths[%lld] = %lld is less than its %lld queries", row,
           static_cast<long long>(s.context), static_cast<long long>(s.queries));
    const int64_t used = (s.context + args.block_size - 1) / args.block_size;
    if (used > table_blocks)
      fail("invalid_argument", "context_lengths[%lld] = %lld needs %lld blocks, block_tables has room for %lld", row,
           static_cast<long long>(s.context), static_cast<long long>(used), static_cast<long long>(table_blocks));
    for (int64_t i = 0; i < used; ++i)
      if (s.blocks[i] < 0 || s.blocks[i] >= cache_blocks)
        fail("invalid_argument", "block_tables[%lld, %lld] = %d is outside the cache of %lld blocks", row,
             static_cast<long long>(i), s.blocks[i], static_cast<long long>(cache_blocks));
  }
}

}  // namespace qwen2
