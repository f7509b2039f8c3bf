#include "cpu/kv_cache.h"
#include "cpu/simd.h"
#include "ops/rope_and_cache/rope_and_cache.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

// out[j] = finish(x[j], j) with x rotated by the row [cos | sin] of the table; out may be x.
template <typename Finish>
void rotate(const bf16* x, const float* table, bf16* out, int64_t D, const Finish& finish) {
  const int64_t half = D / 2;
  for (int64_t j = 0; j < half; j += lanes) {
    const int count = static_cast<int>(half - j < lanes ? half - j : lanes);
    const F32 a = load(x + j, count), b = load(x + half + j, count);
    const F32 cos = load(table + j, count), sin = load(table + half + j, count);
    store(out + j, finish(sub(mul(a, cos), mul(b, sin)), j, count), count);
    store(out + half + j, finish(add(mul(b, cos), mul(a, sin)), half + j, count), count);
  }
}

// smoothing: the factors of the KV head, or null.
void rotate_query(bf16* x, const float* table, const float* smoothing, int64_t D) {
  if (smoothing == nullptr) {
    rotate(x, table, x, D, [](F32 v, int64_t, int) { return v; });
  } else {
    rotate(x, table, x, D, [&](F32 v, int64_t j, int count) { return mul(v, load(smoothing + j, count)); });
  }
}

void rotate_key(const bf16* x, const float* table, const float* smoothing, bf16* out, int64_t D) {
  if (smoothing == nullptr) {
    rotate(x, table, out, D, [](F32 v, int64_t, int) { return v; });
  } else {
    rotate(x, table, out, D, [&](F32 v, int64_t j, int count) { return div(v, load(smoothing + j, count)); });
  }
}

// Where a block keeps a token of a head.
struct Place {
  const KvBlock& layout;
  int64_t head, place;

  template <typename T, typename Element>
  void write_key(T* block, const Element& element) const {
    T* keys = block + layout.key_group(head, place) + place % kv_group * 2;
    for (int64_t j = 0; j < layout.head_dim; j += 2) {
      keys[j * kv_group] = element(j);
      keys[j * kv_group + 1] = element(j + 1);
    }
  }
  template <typename T, typename Element>
  void write_value(T* block, const Element& element) const {
    T* values = block + layout.value_pair(head, place) + place % 2;
    for (int64_t j = 0; j < layout.head_dim; ++j) values[j * 2] = element(j);
  }
};

template <typename E>
KvScale scale_of(const bf16* x, int64_t D) {
  float largest = 0;
  for (int64_t j = 0; j < D; ++j) {
    const float value = to_float(x[j]), magnitude = value < 0 ? -value : value;
    if (magnitude > largest || magnitude != magnitude) largest = magnitude;
  }
  return kv_scale<E>(largest);
}

void write_token(const bf16* key, const bf16* value, bf16* block, const Place& place) {
  place.write_key(block, [&](int64_t j) { return key[j]; });
  place.write_value(block, [&](int64_t j) { return value[j]; });
}

template <typename E>
void write_quantized(const bf16* key, const bf16* value, uint8_t* block, const Place& place) {
  const KvBlock& layout = place.layout;
  const KvScale of_key = scale_of<E>(key, layout.head_dim), of_value = scale_of<E>(value, layout.head_dim);
  place.write_key(block, [&](int64_t j) { return kv_element<E>(to_float(key[j]), of_key); });
  place.write_value(block, [&](int64_t j) { return kv_element<E>(to_float(value[j]), of_value); });
  auto* scales = reinterpret_cast<float*>(block + layout.elements());
  scales[layout.scales().key(place.head, place.place)] = of_key.scale;
  scales[layout.scales().value(place.head, place.place)] = of_value.scale;
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
      const auto smoothing = [&](int64_t kv_head) {
        return args.smoothing.present() ? args.smoothing.row<float>(kv_head) : nullptr;
      };
      for (int64_t h = 0; h < Hq; ++h) rotate_query(q + h * D, table, smoothing(h / (Hq / Hkv)), D);
      const int32_t slot = args.slots.as<int32_t>()[t];
      if (slot < -1 || slot >= slots)
        fail("invalid_argument", "slots[%lld] = %d is outside the cache of %lld slots", static_cast<long long>(t), slot,
             static_cast<long long>(slots));
      if (slot == -1) continue;
      uint8_t* block = args.cache.row<uint8_t>(slot / args.block_size);
      for (int64_t h = 0; h < Hkv; ++h) {
        rotate_key(k + h * D, table, smoothing(h), rotated, D);
        const Place place{layout, h, slot % args.block_size};
        if (args.cache_dtype == DType::int8) {
          write_quantized<Int8Kv>(rotated, v + h * D, block, place);
        } else if (args.cache_dtype == DType::fp8) {
          write_quantized<Fp8Kv>(rotated, v + h * D, block, place);
        } else {
          write_token(rotated, v + h * D, reinterpret_cast<bf16*>(block), place);
        }
      }
    }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
