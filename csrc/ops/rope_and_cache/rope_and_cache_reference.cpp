#include <vector>

#include "ops/rope_and_cache/rope_and_cache.h"
#include "reference/kernel.h"
#include "reference/kv_cache.h"

namespace qwen2::reference {
namespace {

// out[j] = finish(x[j] rotated, j); out may be x.
template <typename T, typename Finish>
void rotate(const T* x, const float* table, T* out, int64_t D, const Finish& finish) {
  const float* cos = table;
  const float* sin = table + D / 2;
  for (int64_t j = 0; j < D / 2; ++j) {
    const float a = to_float(x[j]), b = to_float(x[j + D / 2]);
    out[j] = from_float<T>(finish(a * cos[j] - b * sin[j], j));
    out[j + D / 2] = from_float<T>(finish(b * cos[j] + a * sin[j], j + D / 2));
  }
}

}  // namespace

void rope_and_cache(const RopeAndCacheArgs& args) {
  const int64_t tokens = args.qkv.shape[0], D = args.head_dim, Hq = args.num_heads, Hkv = args.num_kv_heads;
  const int64_t slots = args.cache.shape[0] * args.block_size;
  const KvBlock layout{args.cache_dtype, Hkv, D, args.block_size};
  for_activation(args.qkv.dtype, [&](auto type) {
    using T = decltype(type);
    std::vector<T> rotated(static_cast<size_t>(D));
    for (int64_t t = 0; t < tokens; ++t) {
      T* q = args.qkv.row<T>(t);   // [Hq, D]
      const T* k = q + Hq * D;     // [Hkv, D]
      const T* v = k + Hkv * D;    // [Hkv, D]
      const float* table = args.rope_table.row<float>(t);
      const auto factor = [&](int64_t kv_head, int64_t j) {
        return args.smoothing.present() ? args.smoothing.row<float>(kv_head)[j] : 1.0f;
      };
      for (int64_t h = 0; h < Hq; ++h)
        rotate(q + h * D, table, q + h * D, D, [&](float x, int64_t j) { return x * factor(h / (Hq / Hkv), j); });
      const int32_t slot = args.slots.as<int32_t>()[t];
      if (slot < -1 || slot >= slots)
        fail("invalid_argument", "slots[%lld] = %d is outside the cache of %lld slots", static_cast<long long>(t), slot,
             static_cast<long long>(slots));
      if (slot == -1) continue;
      const int64_t place = slot % args.block_size;
      uint8_t* block = args.cache.row<uint8_t>(slot / args.block_size);
      for (int64_t h = 0; h < Hkv; ++h) {
        rotate(k + h * D, table, rotated.data(), D, [&](float x, int64_t j) { return x / factor(h, j); });
        layout.write(block, layout.key(h, place), rotated.data());
        layout.write(block, layout.value(h, place), v + h * D);
      }
    }
  });
}

}  // namespace qwen2::reference
