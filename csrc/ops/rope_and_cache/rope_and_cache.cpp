#include "ops/rope_and_cache/rope_and_cache.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const RopeAndCacheArgs& args) {
  contract.kv_shape(args.num_kv_heads, args.head_dim, args.block_size);
  contract.require(args.num_heads > 0 && args.num_heads % args.num_kv_heads == 0,
                   "num_heads must be a positive multiple of num_kv_heads");
  const int64_t heads = int64_t{args.num_heads} + 2 * int64_t{args.num_kv_heads};
  Dim T("T"), width("(Hq + 2·Hkv)·D", heads * args.head_dim, "the heads"), D("D", args.head_dim, "head_dim");
  contract.tensor("qkv", args.qkv, {&T, &width}, activation);
  contract.tensor("rope_table", args.rope_table, {&T, &D}, DType::f32);
  contract.tensor("slots", args.slots, {&T}, DType::i32);
  contract.kv_cache("cache", args.cache, args.cache_dtype, args.qkv.dtype, args.num_kv_heads, args.head_dim,
                    args.block_size);
  if (args.smoothing.present()) {
    Dim Hkv("Hkv", args.num_kv_heads, "num_kv_heads");
    contract.tensor("smoothing", args.smoothing, {&Hkv, &D}, DType::f32);
  }
  contract.alone("qkv", args.qkv);
  contract.alone("cache", args.cache);
}

}  // namespace qwen2
