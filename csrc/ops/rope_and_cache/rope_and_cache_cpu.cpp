#include "cpu/kv_cache.h"
#include "cpu/simd.h"
#include "ops/rope_and_cache/rope_and_cache.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

// out = x rotated by the row [cos | sin] of the table; out may be x.
void rotate(const bf16* x, const float* table, bf16* out, int64_t D) {
  const int64_t half = D / 2;
  for (int64_t j = 0; j < half; j += lanes) {
    const int count = static_cast<int>(half - j < lanes ? half - j : lanes);
    const F32 a = load(x + j, count), b = load(x + half + j, count);
    const F32 cos = load(table + j, count), sin = load(table + half + j, count);
    store(out + j, sub(mul(a, cos), mul(b, sin)), count);
    store(out + half + j, add(mul(b, cos), mul(a, sin)), count);
  }
}

// Writes one token's keys and values of one head to its place in a block.
void write_token(const bf16* key, const bf16* value, bf16* block, const KvBlock& layout, int64_t head, int64_t place) {
  bf16* keys = block + layout.key_group(head, place) + place % kv_group * 2;
  for (int64_t j = 0; j < layout.head_dim; j += 2) {
    keys[j * kv_group] = key[j];
    keys[j * kv_group + 1] = key[j + 1];
  }
  bf16* values = block + layout.value_pair(head, place) + place % 2;
  for (int64_t j = 0; j < layout.head_dim; ++j) values[j * 2] = value[j];
}

}  // namespace

void rope_and_cache(Context& context, const RopeAndCacheArgs& args) {
  require_bf16("rope_and_cache", args.qkv);
  const int64_t tokens = args.qkv.shape[0], D = args.head_dim, Hq = args.num_heads, Hkv = args.num_kv_heads;
  const int64_t slots = args.cache.shape[0] * args.block_size;
  const KvBlock layout{Hkv, D, args.block_size};
  parallel(context, tokens, 4, [&](int64_t begin, int64_t end, int worker) {
    auto* rotated = static_cast<bf16*>(context.scratch(worker, static_cast<size_t>(D) * sizeof(bf16)));
    for (int64_t t = begin; t < end; ++t) {
      bf16* q = args.qkv.row<bf16>(t);
      const bf16* k = q + Hq * D;
      const bf16* v = k + Hkv * D;
      const float* table = args.rope_table.row<float>(t);
      for (int64_t h = 0; h < Hq; ++h) rotate(q + h * D, table, q + h * D, D);
      const int32_t slot = args.slots.as<int32_t>()[t];
      if (slot < -1 || slot >= slots)
        fail("invalid_argument", "slots[%lld] = %d is outside the cache of %lld slots", static_cast<long long>(t), slot,
             static_cast<long long>(slots));
      if (slot == -1) continue;
      bf16* block = reinterpret_cast<bf16*>(args.cache.row<uint8_t>(slot / args.block_size));
      for (int64_t h = 0; h < Hkv; ++h) {
        rotate(k + h * D, table, rotated, D);
        write_token(rotated, v + h * D, block, layout, h, slot % args.block_size);
      }
    }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
