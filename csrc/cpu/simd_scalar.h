// SIMD words for any processor, on the compiler's portable vectors of four floats. See simd.h.
#pragma once

#include <cmath>
#include <cstddef>

namespace qwen2::cpu::scalar {

constexpr int lanes = 4;
using F32 = float __attribute__((vector_size(16)));
using Pairs = uint32_t __attribute__((vector_size(16)));

inline F32 splat(float x) { return F32{x, x, x, x}; }
inline F32 zero() { return splat(0); }
inline F32 load(const float* p) {
  F32 x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
inline F32 load(const bf16* p) { return F32{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])}; }
template <typename T>
inline F32 load(const T* p, int count) {
  F32 x = zero();
  for (int i = 0; i < count; ++i) x[i] = to_float(p[i]);
  return x;
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

}  // namespace qwen2::cpu::scalar
