#include "cuda/elementwise.h"
#include "cuda/kv_cache.h"
#include "ops/rope_and_cache/rope_and_cache.h"

namespace qwen2::cuda {
namespace {

constexpr int threads = 256;

struct Shape {
  int64_t heads, head_dim, block_stride;  // of the cache, in elements
  KvBlock block;
};

// One block a token, one thread a pair of elements that turn together; values are copied in the same pairs.
__global__ void __launch_bounds__(threads)
    rope_and_cache_kernel(Rows<bf16> qkv, Rows<const float> table, const int32_t* slots, bf16* cache,
                          int64_t cache_blocks, Shape shape, ErrorSlot outside) {
  griddepcontrol_wait();
  const int64_t t = blockIdx.x, half = shape.head_dim / 2, kv_heads = shape.block.kv_heads;
  const int32_t slot = slots[t];
  const bool valid = slot < cache_blocks * shape.block.block_size && slot >= -1;
  if (!valid && threadIdx.x == 0)
    report(outside, t, slot, cache_blocks * shape.block.block_size);
  const bool stores = valid && slot >= 0;
  bf16* block = stores ? cache + slot / shape.block.block_size * shape.block_stride : nullptr;
  const int64_t place = stores ? slot % shape.block.block_size : 0;
  bf16* token = qkv.row(t);
  const float* turns = table.row(t);
  for (int64_t i = threadIdx.x; i < (shape.heads + 2 * kv_heads) * half; i += threads) {
    const int64_t head = i / half, j = i % half;
    bf16* x = token + head * shape.head_dim + j;
    if (head >= shape.heads + kv_heads) {
      if (!stores) continue;
      bf16* out = block + shape.block.value(head - shape.heads - kv_heads, place) + j;
      out[0] = x[0];
      out[half] = x[half];
      continue;
    }
    const float a = load_float(x), b = load_float(x + half), cosine = turns[j], sine = turns[half + j];
    bf16* out = head < shape.heads ? x : stores ? block + shape.block.key(head - shape.heads, place) + j : nullptr;
    if (out == nullptr) continue;
    store_float(out, a * cosine - b * sine);
    store_float(out + half, b * cosine + a * sine);
  }
}

}  // namespace

void rope_and_cache(Context& context, const RopeAndCacheArgs& args) {
  require_bf16("rope_and_cache", args.qkv);
  const int64_t tokens = args.qkv.shape[0];
  if (tokens == 0) return;
  const Shape shape{args.num_heads,
                    args.head_dim,
                    args.cache.strides[0] / size_of(DType::bf16),
                    {args.num_kv_heads, args.head_dim, args.block_size}};
  launch(context, rope_and_cache_kernel,
         {.blocks = static_cast<unsigned>(tokens), .threads = threads, .dependent = true}, rows_of<bf16>(args.qkv),
         rows_of<const float>(args.rope_table), args.slots.as<int32_t>(), args.cache.as<bf16>(), args.cache.shape[0],
         shape, context.errors("slots[%lld] = %lld is outside the cache of %lld slots"));
}

}  // namespace qwen2::cuda
