#include "ops/rope_and_cache/rope_and_cache.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const RopeAndCacheArgs& args) {
  contract.require(args.num_heads > 0 && args.num_kv_heads > 0 && args.head_dim > 0 && args.head_dim % 2 == 0,
                   "num_heads, num_kv_heads and head_dim must be positive, head_dim even");
  contract.require(args.num_heads % args.num_kv_heads == 0, "num_heads must be a multiple of num_kv_heads");
  contract.require(args.block_size > 0 && args.block_size % 16 == 0, "block_size must be a multiple of 16");
  Dim T("T"), blocks("blocks"), block_bytes("kv_block_bytes");
  Dim width("(Hq + 2·Hkv)·D", int64_t{args.num_heads + 2 * args.num_kv_heads} * args.head_dim, "the heads");
  Dim D("D", args.head_dim, "head_dim");
  contract.tensor("qkv", args.qkv, {&T, &width}, activation);
  contract.tensor("rope_table", args.rope_table, {&T, &D}, DType::f32);
  contract.tensor("slots", args.slots, {&T}, DType::i32);
  contract.tensor("cache", args.cache, {&blocks, &block_bytes}, DType::u8);
}

}  // namespace qwen2
