// SIMD words for any processor, on the compiler's portable vectors of four floats. See simd.h.
#pragma once

#include <cmath>
#include <cstddef>

namespace qwen2::cpu::scalar {

constexpr int lanes = 4;
using F32 = float __attribute__((vector_size(16)));
using Pairs = uint32_t __attribute__((vector_size(16)));
using I32 = int32_t __attribute__((vector_size(16)));
using Words = uint32_t __attribute__((vector_size(16)));

inline F32 splat(float x) { return F32{x, x, x, x}; }
inline F32 zero() { return splat(0); }
inline F32 load(const float* p) {
  F32 x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
inline F32 load(const bf16* p) { return F32{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])}; }
inline F32 load(const f16* p) { return F32{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])}; }
template <typename T>
inline F32 load(const T* p, int count) {
  float whole[lanes] = {};
  for (int i = 0; i < count; ++i) whole[i] = to_float(p[i]);
  return load(whole);
}
inline void store(float* p, F32 x) { __builtin_memcpy(p, &x, sizeof x); }
inline void store(float* p, F32 x, int count) {
  for (int i = 0; i < count; ++i) p[i] = x[i];
}
inline void store(bf16* p, F32 x, int count) {
  for (int i = 0; i < count; ++i) p[i] = to_bf16(x[i]);
}
inline void store(bf16* p, F32 x) { store(p, x, lanes); }

inline F32 add(F32 a, F32 b) { return a + b; }
inline F32 sub(F32 a, F32 b) { return a - b; }
inline F32 mul(F32 a, F32 b) { return a * b; }
inline F32 div(F32 a, F32 b) { return a / b; }
inline F32 abs(F32 x) { return __builtin_bit_cast(F32, __builtin_bit_cast(Words, x) & 0x7FFFFFFFu); }
inline F32 fma(F32 a, F32 b, F32 c) { return a * b + c; }
// Of max and min, b is returned where either is NaN.
inline F32 max(F32 a, F32 b) { return a > b ? a : b; }
inline F32 min(F32 a, F32 b) { return a < b ? a : b; }
// |x| < 2²²; adding and taking away 1.5 · 2²³ rounds to nearest even.
inline F32 round(F32 x) {
  volatile F32 shifted = x + splat(12582912.0f);
  return shifted - splat(12582912.0f);
}
// n is integral, the result normal.
inline F32 times_power_of_two(F32 x, F32 n) {
  for (int i = 0; i < lanes; ++i) {
    const float power = std::bit_cast<float>(static_cast<uint32_t>(static_cast<int32_t>(n[i]) + 127) << 23);
    x[i] *= power;
  }
  return x;
}
inline F32 zero_where_below(F32 x, F32 limit, F32 value) { return x < limit ? zero() : value; }
inline float sum(F32 x) { return (x[0] + x[2]) + (x[1] + x[3]); }
inline float max_lane(F32 x) {
  float m = x[0];
  for (int i = 1; i < lanes; ++i) m = x[i] > m ? x[i] : m;
  return m;
}
inline uint32_t at_least(F32 x, F32 limit) {
  uint32_t bits = 0;
  for (int i = 0; i < lanes; ++i) bits |= uint32_t{x[i] >= limit[i]} << i;
  return bits;
}
inline uint32_t above(F32 x, F32 limit) {
  uint32_t bits = 0;
  for (int i = 0; i < lanes; ++i) bits |= uint32_t{x[i] > limit[i]} << i;
  return bits;
}

inline Pairs load_pairs(const bf16* p) {
  Pairs x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
inline void store_pairs(bf16* p, Pairs x) { __builtin_memcpy(p, &x, sizeof x); }
inline Pairs splat_pair(const bf16* p) {
  uint32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return Pairs{pair, pair, pair, pair};
}
// acc + a.first · b.first + a.second · b.second
inline F32 dot(F32 acc, Pairs a, Pairs b) {
  const Pairs high = {0xFFFF0000u, 0xFFFF0000u, 0xFFFF0000u, 0xFFFF0000u};
  const auto first_of = [](Pairs x) { return __builtin_bit_cast(F32, x << 16); };
  const auto second_of = [&](Pairs x) { return __builtin_bit_cast(F32, x & high); };
  return acc + first_of(a) * first_of(b) + second_of(a) * second_of(b);
}

inline I32 splat_int(int32_t x) { return I32{x, x, x, x}; }
inline I32 widen_bytes(const uint8_t* p) { return I32{p[0], p[1], p[2], p[3]}; }
inline F32 to_floats(I32 x) { return __builtin_convertvector(x, F32); }
// |x| < 2²², or what a NaN gives.
inline I32 round_to_int(F32 x) {
  const F32 rounded = round(x);
  I32 whole;
  for (int i = 0; i < lanes; ++i) whole[i] = rounded[i] == rounded[i] ? static_cast<int32_t>(rounded[i]) : 0;
  return whole;
}
inline void narrow_to_bytes(int8_t* p, I32 x) {
  for (int i = 0; i < lanes; ++i) p[i] = static_cast<int8_t>(x[i]);
}
inline I32 sub(I32 a, I32 b) { return a - b; }
inline int32_t sum(I32 x) { return x[0] + x[1] + x[2] + x[3]; }

inline Words load_words(const uint32_t* p) {
  Words x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
inline void store_words(uint32_t* p, Words x) { __builtin_memcpy(p, &x, sizeof x); }
inline Words splat_word(const uint32_t* p) { return Words{*p, *p, *p, *p}; }
inline Words low_nibbles(Words x) { return x & 0x0F0F0F0Fu; }
inline Words high_nibbles(Words x) { return low_nibbles(x >> 4); }
// acc + Σ a · b over the four bytes of a word, those of a below 16 or 256, those of b signed.
inline I32 dot_bytes(I32 acc, Words a, Words b) {
  for (int shift = 0; shift < 32; shift += 8)
    acc += __builtin_bit_cast(I32, a >> shift & 255u) * (__builtin_bit_cast(I32, b << (24 - shift)) >> 24);
  return acc;
}
inline I32 dot_nibbles(I32 acc, Words a, Words b) { return dot_bytes(acc, a, b); }

// Two integers a lane of at most 8 bits, as bf16: the upper halves of the floats that they are.
inline Pairs pairs_of(I32 first, I32 second) {
  return __builtin_bit_cast(Words, to_floats(first)) >> 16 | (__builtin_bit_cast(Words, to_floats(second)) & 0xFFFF0000u);
}
// Nibbles i and i + 4 of a word, as numbers.
template <int i>
inline Pairs nibble_pairs(Words x) {
  return pairs_of(__builtin_bit_cast(I32, x >> (4 * i) & 15u), __builtin_bit_cast(I32, x >> (16 + 4 * i) & 15u));
}
// Bytes i and i + 2 of a word, less 128, as numbers.
template <int i>
inline Pairs byte_pairs(Words x) {
  const I32 centre = splat_int(128);
  return pairs_of(__builtin_bit_cast(I32, x >> (8 * i) & 255u) - centre,
                  __builtin_bit_cast(I32, x >> (16 + 8 * i) & 255u) - centre);
}

}  // namespace qwen2::cpu::scalar
