// SIMD words on AVX-512 (F, BW, DQ, VL) with BF16. See simd.h.
#pragma once

#include <immintrin.h>

namespace qwen2::cpu::avx512 {

constexpr int lanes = 16;
using F32 = __m512;
using Pairs = __m512bh;

inline __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1u); }

inline F32 zero() { return _mm512_setzero_ps(); }
inline F32 splat(float x) { return _mm512_set1_ps(x); }
inline F32 load(const float* p) { return _mm512_loadu_ps(p); }
inline F32 load(const float* p, int count) { return _mm512_maskz_loadu_ps(first(count), p); }
inline F32 widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline F32 load(const bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline F32 load(const bf16* p, int count) { return widen(_mm256_maskz_loadu_epi16(first(count), p)); }
inline void store(float* p, F32 x) { _mm512_storeu_ps(p, x); }
inline void store(float* p, F32 x, int count) { _mm512_mask_storeu_ps(p, first(count), x); }
inline __m256i narrow(F32 x) {
  const __m256bh rounded = _mm512_cvtneps_pbh(x);
  return __builtin_bit_cast(__m256i, rounded);
}
inline void store(bf16* p, F32 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x)); }
inline void store(bf16* p, F32 x, int count) { _mm256_mask_storeu_epi16(p, first(count), narrow(x)); }

inline F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
inline F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
inline F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
inline F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
inline F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
// Of max and min, b is returned where either is NaN.
inline F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
inline F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
inline F32 round(F32 x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F32 times_power_of_two(F32 x, F32 n) { return _mm512_scalef_ps(x, n); }
inline F32 zero_where_below(F32 x, F32 limit, F32 value) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), value);
}
inline float sum(F32 x) { return _mm512_reduce_add_ps(x); }
inline float max_lane(F32 x) { return _mm512_reduce_max_ps(x); }
inline uint32_t at_least(F32 x, F32 limit) { return _mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ); }
inline uint32_t above(F32 x, F32 limit) { return _mm512_cmp_ps_mask(x, limit, _CMP_GT_OQ); }

inline Pairs load_pairs(const bf16* p) { return __builtin_bit_cast(Pairs, _mm512_loadu_si512(p)); }
inline Pairs splat_pair(const bf16* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return __builtin_bit_cast(Pairs, _mm512_set1_epi32(pair));
}
// acc + a.first · b.first + a.second · b.second
inline F32 dot(F32 acc, Pairs a, Pairs b) { return _mm512_dpbf16_ps(acc, a, b); }

}  // namespace qwen2::cpu::avx512
