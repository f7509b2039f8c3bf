#include "ops/rope_and_cache/rope_and_cache.h"

#include "cuda/elementwise.h"
#include "cuda/kv_elements.h"
#include "cuda/reduce.h"

namespace qwen2::cuda {
namespace {

constexpr int threads = 256;
constexpr int max_pairs = max_head_dim / 2 / warp_size;  // of a head, a lane has

// Counts are of 32 bits, as threads divide by them: in 64 bits that is a call.
struct Shape {
  int heads, kv_heads, head_dim, block_size;
  int64_t block_stride;         // of the cache, in bytes
  Rows<const float> smoothing;  // of no data: none

  __device__ int half() const { return head_dim / 2; }
  __device__ int group() const { return heads / kv_heads; }
  __device__ KvBlock block() const { return {kv_heads, head_dim, block_size}; }
  // The factors of a KV head, or null.
  __device__ const float* smoothing_of(int kv_head) const {
    return smoothing.data == nullptr ? nullptr : smoothing.row(kv_head);
  }
};

// Where the cache keeps a token; nowhere if block is null.
struct Slot {
  char* block;
  int place;
};

__device__ inline Slot find_slot(const int32_t* slots, char* cache, int64_t cache_blocks, const Shape& shape,
                                 ErrorSlot outside) {
  const int64_t t = blockIdx.x, all_slots = cache_blocks * shape.block_size;
  const int slot = slots[t];
  const bool valid = slot < all_slots && slot >= -1;
  if (!valid && threadIdx.x == 0) report(outside, t, slot, all_slots);
  if (!valid || slot < 0) return {nullptr, 0};
  return {cache + slot / shape.block_size * shape.block_stride, slot % shape.block_size};
}

// Elements j and j + D / 2 of a head.
struct Pair {
  float low, high;
};

__device__ inline Pair load_pair(const bf16* head, int j, int half) {
  return {load_float(head + j), load_float(head + half + j)};
}
__device__ inline Pair rotate(const Pair& x, const float* turns, int j, int half) {
  const float cosine = turns[j], sine = turns[half + j];
  return {x.low * cosine - x.high * sine, x.high * cosine + x.low * sine};
}
__device__ inline Pair rotate_query(const Pair& x, const float* turns, const float* smoothing, int j, int half) {
  const Pair turned = rotate(x, turns, j, half);
  return smoothing == nullptr ? turned : Pair{turned.low * smoothing[j], turned.high * smoothing[half + j]};
}
__device__ inline Pair rotate_key(const Pair& x, const float* turns, const float* smoothing, int j, int half) {
  const Pair turned = rotate(x, turns, j, half);
  return smoothing == nullptr ? turned : Pair{turned.low / smoothing[j], turned.high / smoothing[half + j]};
}
__device__ inline void store_pair(bf16* head, int j, int half, const Pair& x) {
  store_float(head + j, x.low);
  store_float(head + half + j, x.high);
}

// One block a token, one thread a pair of elements that turn together; values are copied in the same pairs.
__global__ void __launch_bounds__(threads)
    rope_and_cache_kernel(Rows<bf16> qkv, Rows<const float> table, const int32_t* slots, char* cache,
                          int64_t cache_blocks, Shape shape, ErrorSlot outside) {
  griddepcontrol_wait();
  const int half = shape.half(), kv_heads = shape.kv_heads, group = shape.group();
  const Slot slot = find_slot(slots, cache, cache_blocks, shape, outside);
  auto* vectors = reinterpret_cast<bf16*>(slot.block);
  bf16* token = qkv.row(blockIdx.x);
  const float* turns = table.row(blockIdx.x);
  for (int i = threadIdx.x; i < (shape.heads + 2 * kv_heads) * half; i += threads) {
    const int head = i / half, j = i % half, kv_head = head - shape.heads;  // values follow keys in both
    bf16* x = token + head * shape.head_dim;
    Pair pair = load_pair(x, j, half);
    if (kv_head < 0) {
      store_pair(x, j, half, rotate_query(pair, turns, shape.smoothing_of(head / group), j, half));
    } else if (vectors != nullptr) {
      if (kv_head < kv_heads) pair = rotate_key(pair, turns, shape.smoothing_of(kv_head), j, half);
      store_pair(vectors + shape.block().key(kv_head, slot.place) * shape.head_dim, j, half, pair);
    }
  }
}

__device__ inline float as_bf16(float x) { return __uint_as_float(cvt_bf16x2(0, x)); }

// One head's key or value to 8 bits, by a warp.
template <typename E>
__device__ inline void quantize_head(const Pair (&pairs)[max_pairs], int half, bool is_key, uint8_t* out,
                                     float* out_scale) {
  float largest = 0;
  bool is_number = true;
#pragma unroll
  for (int i = 0; i < max_pairs; ++i) {
    largest = fmaxf(largest, fmaxf(fabsf(pairs[i].low), fabsf(pairs[i].high)));
    is_number = is_number && pairs[i].low == pairs[i].low && pairs[i].high == pairs[i].high;
  }
  largest = warp_max(largest);
  if (__any_sync(full_warp, !is_number)) largest = __uint_as_float(0x7FC00000);
  const KvScale scale = kv_scale<typename E::Rounding>(largest);
  if (lane_index() == 0) *out_scale = scale.scale;
#pragma unroll
  for (int i = 0; i < max_pairs; ++i) {
    const int j = lane_index() + i * warp_size;
    if (j >= half) break;
    out[is_key ? key_byte(j) : value_byte(j)] = kv_element<typename E::Rounding>(pairs[i].low, scale);
    out[is_key ? key_byte(half + j) : value_byte(half + j)] = kv_element<typename E::Rounding>(pairs[i].high, scale);
  }
}

// One block a token; a warp a key or value.
template <typename E>
__global__ void __launch_bounds__(threads)
    rope_and_quantize_kernel(Rows<bf16> qkv, Rows<const float> table, const int32_t* slots, char* cache,
                             int64_t cache_blocks, Shape shape, ErrorSlot outside) {
  griddepcontrol_wait();
  const int half = shape.half(), kv_heads = shape.kv_heads, group = shape.group();
  const Slot slot = find_slot(slots, cache, cache_blocks, shape, outside);
  bf16* token = qkv.row(blockIdx.x);
  const float* turns = table.row(blockIdx.x);
  for (int i = threadIdx.x; i < shape.heads * half; i += threads) {
    const int head = i / half, j = i % half;
    bf16* x = token + head * shape.head_dim;
    store_pair(x, j, half, rotate_query(load_pair(x, j, half), turns, shape.smoothing_of(head / group), j, half));
  }
  if (slot.block == nullptr) return;
  auto* bytes = reinterpret_cast<uint8_t*>(slot.block);
  auto* scales = reinterpret_cast<float*>(slot.block + shape.block().elements());
  for (int kv_head = warp_index(); kv_head < 2 * kv_heads; kv_head += threads / warp_size) {
    const bf16* x = token + (shape.heads + kv_head) * shape.head_dim;
    const bool is_key = kv_head < kv_heads;
    Pair pairs[max_pairs] = {};
#pragma unroll
    for (int i = 0; i < max_pairs; ++i) {
      const int j = lane_index() + i * warp_size;
      if (j >= half) break;
      pairs[i] = load_pair(x, j, half);
      if (!is_key) continue;
      const Pair turned = rotate_key(pairs[i], turns, shape.smoothing_of(kv_head), j, half);
      pairs[i] = {as_bf16(turned.low), as_bf16(turned.high)};
    }
    const int64_t vector = shape.block().key(kv_head, slot.place);
    quantize_head<E>(pairs, half, is_key, bytes + vector * shape.head_dim, scales + vector);
  }
}

auto kernel_for(DType cache_dtype) {
  switch (cache_dtype) {
    case DType::int8:
      return rope_and_quantize_kernel<KvInt8>;
    case DType::fp8:
      return rope_and_quantize_kernel<KvFp8>;
    default:
      return rope_and_cache_kernel;
  }
}

}  // namespace

void rope_and_cache(Context& context, const RopeAndCacheArgs& args) {
  require_bf16("rope_and_cache", args.qkv);
  const int64_t tokens = args.qkv.shape[0];
  if (tokens == 0) return;
  const Shape shape{
      .heads = args.num_heads,
      .kv_heads = args.num_kv_heads,
      .head_dim = args.head_dim,
      .block_size = args.block_size,
      .block_stride = args.cache.strides[0],
      .smoothing = args.smoothing.present() ? rows_of<const float>(args.smoothing) : Rows<const float>{},
  };
  launch(context, kernel_for(args.cache_dtype),
         {.blocks = static_cast<unsigned>(tokens), .threads = threads, .dependent = true}, rows_of<bf16>(args.qkv),
         rows_of<const float>(args.rope_table), args.slots.as<int32_t>(), args.cache.as<char>(), args.cache.shape[0],
         shape, context.errors("slots[%lld] = %lld is outside the cache of %lld slots"));
}

}  // namespace qwen2::cuda
