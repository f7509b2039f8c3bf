#include "ops/attention/attention.h"

#include <iterator>

#include "ops/attention/decode.cuh"
#include "ops/attention/invariant.cuh"
#include "ops/attention/prefill.cuh"

namespace qwen2::cuda {
namespace {

// Copies of keys or values in flight, and shared memory: 82 KB at D = 128 with 128 rows, which lets an A100 have two
// blocks a multiprocessor.
constexpr int prefill_slots = 3;

struct Prefill {
  int rows;
  void (*kernel)(Step);
  size_t shared_bytes;
};

template <typename E, int D, int row_tiles>
constexpr Prefill prefill_of() {
  using Shared = PrefillShared<E, D, row_tiles, prefill_slots>;
  return {Shared::rows, prefill_kernel<E, D, row_tiles, prefill_slots>, sizeof(Shared)};
}

// What a multiprocessor can hold at a time: it has 1 KB more than the largest block may ask for, and keeps 1 KB a
// block.
constexpr int64_t resident_blocks(size_t shared_bytes_per_block, size_t shared_bytes) {
  return static_cast<int64_t>(std::clamp<size_t>((shared_bytes_per_block + 1024) / (shared_bytes + 1024), 1, 2));
}

template <typename E, int D, int stages>
void run_decode(Context& context, const Step& step) {
  constexpr size_t shared_bytes = sizeof(DecodeShared<E, D, stages>);
  const int64_t blocks = context.device().multiprocessors *
                         resident_blocks(context.device().shared_bytes_per_block, shared_bytes);
  auto* pieces = static_cast<Piece<D>*>(
      context.workspace(static_cast<size_t>(blocks * pieces_per_block) * sizeof(Piece<D>)));
  launch(context, decode_kernel<E, D, stages>,
         {.blocks = static_cast<unsigned>(blocks),
          .threads = attention_threads,
          .shared_bytes = shared_bytes,
          .dependent = true},
         step, pieces);
  launch(context, combine_kernel<D>,
         {.blocks = static_cast<unsigned>(blocks),
          .threads = combine_threads,
          .shared_bytes = sizeof(CombineShared),
          .dependent = true},
         step, pieces);
}

// Copies in flight as in prefill.
constexpr int invariant_slots = prefill_slots;

template <typename E, int D>
void run_walking(Context& context, const Step& step, int64_t tiles) {
  launch(context, walking_kernel<E, D, invariant_slots>,
         {.blocks = static_cast<unsigned>(tiles),
          .threads = attention_threads,
          .shared_bytes = sizeof(InvariantShared<E, D, invariant_slots>),
          .dependent = true},
         step);
}

template <typename E, int D>
void run_splitting(Context& context, const Step& step, int64_t blocks, int64_t chunks, int64_t bytes) {
  const RowPieces<D> pieces{static_cast<RowPiece<D>*>(context.workspace(static_cast<size_t>(bytes))),
                            static_cast<int>(chunks)};
  launch(context, splitting_kernel<E, D, invariant_slots>,
         {.blocks = static_cast<unsigned>(blocks),
          .threads = attention_threads,
          .shared_bytes = sizeof(InvariantShared<E, D, invariant_slots>),
          .dependent = true},
         step, pieces);
  launch(context, merging_kernel<D>,
         {.blocks = static_cast<unsigned>(step.tokens * step.kv_heads),
          .threads = merging_threads,
          .shared_bytes = sizeof(MergingShared),
          .dependent = true},
         step, pieces);
}

template <typename E, int D>
void run_invariant(Context& context, const Step& step) {
  const int64_t blocks = int64_t{2} * context.device().multiprocessors;
  const int64_t tiles =
      prefill_tile_bound(step.tokens, step.sequences, step.group, invariant_rows) * step.kv_heads;
  const int64_t chunks = ceil_div(step.table_blocks * step.block.block_size, int64_t{chunk_keys});
  const int64_t bytes = step.tokens * int64_t{step.kv_heads} * step.group * chunks * int64_t{sizeof(RowPiece<D>)};
  if (step.tokens > 0 && splits_chunks(tiles, blocks, bytes)) {
    run_splitting<E, D>(context, step, blocks, chunks, bytes);
  } else {
    run_walking<E, D>(context, step, std::max<int64_t>(tiles, 1));
  }
}

// What there is for a cache's elements and a head dimension.
struct Family {
  DType cache_dtype;
  int head_dim;
  Prefill prefill, tall_prefill;
  void (*decode)(Context&, const Step&);
  void (*invariant)(Context&, const Step&);
};

template <typename E, int D, int decode_stages>
constexpr Family family_of() {
  return {.cache_dtype = E::dtype,
          .head_dim = D,
          .prefill = prefill_of<E, D, 1>(),
          .tall_prefill = prefill_of<E, D, 2>(),
          .decode = run_decode<E, D, decode_stages>,
          .invariant = run_invariant<E, D>};
}

constexpr Family families[] = {
    family_of<KvBf16, 64, 5>(),  family_of<KvInt8, 64, 8>(),  family_of<KvFp8, 64, 8>(),
    family_of<KvBf16, 128, 3>(), family_of<KvInt8, 128, 4>(), family_of<KvFp8, 128, 4>(),
};

constexpr size_t a100_block = 163 << 10, hopper_block = 227 << 10, ada_block = 99 << 10;
static_assert(sizeof(DecodeShared<KvBf16, 128, 3>) <= ada_block);
static_assert(sizeof(PrefillShared<KvBf16, 128, 2, prefill_slots>) <= ada_block);
static_assert(resident_blocks(a100_block, sizeof(DecodeShared<KvBf16, 64, 5>)) == 2);
static_assert(resident_blocks(hopper_block, sizeof(DecodeShared<KvBf16, 128, 3>)) == 2);
static_assert(resident_blocks(a100_block, sizeof(DecodeShared<KvInt8, 64, 8>)) == 2);
static_assert(resident_blocks(a100_block, sizeof(DecodeShared<KvInt8, 128, 4>)) == 2);
static_assert(resident_blocks(a100_block, sizeof(PrefillShared<KvBf16, 128, 2, prefill_slots>)) == 2);

Step step_of(Context& context, const AttentionArgs& args) {
  const int64_t D = args.head_dim, heads = args.q.shape[1] / D;
  const auto pairs = reinterpret_cast<uintptr_t>(args.out.data) % 4 == 0 && args.out.strides[0] % 2 == 0;
  return {
      .q = rows_of<const bf16>(args.q),
      .out = rows_of<bf16>(args.out),
      .cache = args.cache.as<const char>(),
      .block_tables = args.block_tables.as<const int32_t>(),
      .query_starts = args.query_starts.as<const int32_t>(),
      .context_lengths = args.context_lengths.as<const int32_t>(),
      .cache_blocks = args.cache.shape[0],
      .block_stride = args.cache.strides[0],
      .table_blocks = args.block_tables.shape[1],
      .table_stride = args.block_tables.strides[0],
      .block = {args.num_kv_heads, D, args.block_size},
      .tokens = static_cast<int>(args.q.shape[0]),
      .sequences = static_cast<int>(args.context_lengths.shape[0]),
      .kv_heads = args.num_kv_heads,
      .group = static_cast<int>(heads / args.num_kv_heads),
      .window = args.window,
      .scale = args.scale * 1.44269504f,
      .q_vectors = vectorizable(args.q, D),
      .out_pairs = pairs,
      .errors =
          {
              .ends = context.errors("query_starts must go from 0 to T = %lld, they go from %lld to %lld"),
              .falls = context.errors("query_starts falls at row %lld"),
              .short_context = context.errors("context_lengths[%lld] = %lld is less than its %lld queries"),
              .long_context = context.errors(
                  "context_lengths[%lld] = %lld needs %lld blocks, block_tables has room for %.0f"),
              .outside = context.errors("block_tables[%lld, %lld] = %lld is outside the cache of %.0f blocks"),
          },
  };
}

// The tall tile where it still gives every multiprocessor two blocks.
void run_prefill(Context& context, const Step& step, const Family& family) {
  const auto blocks_of = [&](const Prefill& prefill) {
    return prefill_tile_bound(step.tokens, step.sequences, step.group, prefill.rows) * step.kv_heads;
  };
  const bool tall = blocks_of(family.tall_prefill) >= int64_t{2} * context.device().multiprocessors;
  const Prefill& prefill = tall ? family.tall_prefill : family.prefill;
  launch(context, prefill.kernel,
         {.blocks = static_cast<unsigned>(blocks_of(prefill)),
          .threads = attention_threads,
          .shared_bytes = prefill.shared_bytes,
          .dependent = true},
         step);
}

}  // namespace

void attention(Context& context, const AttentionArgs& args) {
  require_bf16("attention", args.q);
  const auto family = std::find_if(std::begin(families), std::end(families), [&](const Family& f) {
    return f.head_dim == args.head_dim && f.cache_dtype == args.cache_dtype;
  });
  if (family == std::end(families))
    fail("unsupported", "attention: CUDA devices have kernels for head_dim 64 and 128, not %d; use the cpu device",
         args.head_dim);
  const Step step = step_of(context, args);
  if (args.batch_invariant != 0) {
    family->invariant(context, step);
  } else if (splits_keys(step.tokens, step.sequences, step.group)) {
    family->decode(context, step);
  } else {
    run_prefill(context, step, *family);
  }
}

}  // namespace qwen2::cuda
