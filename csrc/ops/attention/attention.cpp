#include "ops/attention/attention.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const AttentionArgs& args) {
  contract.kv_shape(args.num_kv_heads, args.head_dim, args.block_size);
  contract.require(args.window >= 0, "window must be 0 (none) or the number of keys that a query sees");
  contract.require(args.scale > 0, "scale must be positive");
  Dim T("T"), width("Hq·D"), B("B"), max_blocks("max_blocks"), starts("B + 1");
  contract.tensor("q", args.q, {&T, &width}, activation);
  contract.tensor("out", args.out, {&T, &width}, activation);
  contract.same_dtype("q", args.q, "out", args.out);
  contract.kv_cache("cache", args.cache, args.cache_dtype, args.q.dtype, args.num_kv_heads, args.head_dim,
                    args.block_size);
  contract.tensor("context_lengths", args.context_lengths, {&B}, DType::i32);
  contract.tensor("block_tables", args.block_tables, {&B, &max_blocks}, DType::i32);
  contract.tensor("query_starts", args.query_starts, {&starts}, DType::i32);
  contract.require(starts.value == B.value + 1, "query_starts must have one entry more than context_lengths");
  contract.require(width.value % (int64_t{args.num_kv_heads} * args.head_dim) == 0,
                   "the columns of q must be whole query heads, a multiple of num_kv_heads of them");
  contract.flag("batch_invariant", args.batch_invariant);
  contract.alone("out", args.out);
}

}  // namespace qwen2
