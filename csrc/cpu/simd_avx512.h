// SIMD words on AVX-512 (F, BW, DQ, VL) with BF16 and VNNI. See simd.h.
#pragma once

#include <immintrin.h>

namespace qwen2::cpu::avx512 {

constexpr int lanes = 16;
using F32 = __m512;
using Pairs = __m512bh;
// Not __m512i: GCC 12 then keeps each sum of a `dot` in two registers, as the type that it is and as the one it is cast to.
using I32 = int32_t __attribute__((vector_size(64)));
using Words = __m512i;

inline __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1u); }

inline F32 zero() { return _mm512_setzero_ps(); }
inline F32 splat(float x) { return _mm512_set1_ps(x); }
inline F32 load(const float* p) { return _mm512_loadu_ps(p); }
inline F32 load(const float* p, int count) { return _mm512_maskz_loadu_ps(first(count), p); }
inline F32 widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline F32 load(const bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline F32 load(const bf16* p, int count) { return widen(_mm256_maskz_loadu_epi16(first(count), p)); }
inline F32 load(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
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
inline F32 abs(F32 x) { return _mm512_abs_ps(x); }
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
inline void store_pairs(bf16* p, Pairs x) { _mm512_storeu_si512(p, __builtin_bit_cast(__m512i, x)); }
inline Pairs splat_pair(const bf16* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return __builtin_bit_cast(Pairs, _mm512_set1_epi32(pair));
}
// acc + a.first · b.first + a.second · b.second
inline F32 dot(F32 acc, Pairs a, Pairs b) { return _mm512_dpbf16_ps(acc, a, b); }

inline I32 splat_int(int32_t x) { return I32{} + x; }
inline I32 widen_bytes(const uint8_t* p) {
  return __builtin_bit_cast(I32, _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline F32 to_floats(I32 x) { return _mm512_cvtepi32_ps(__builtin_bit_cast(__m512i, x)); }
inline I32 round_to_int(F32 x) { return __builtin_bit_cast(I32, _mm512_cvtps_epi32(x)); }
inline void narrow_to_bytes(int8_t* p, I32 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(__builtin_bit_cast(__m512i, x)));
}
inline I32 sub(I32 a, I32 b) { return a - b; }
inline int32_t sum(I32 x) { return _mm512_reduce_add_epi32(__builtin_bit_cast(__m512i, x)); }

inline Words load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline void store_words(uint32_t* p, Words x) { _mm512_storeu_si512(p, x); }
inline Words splat_word(const uint32_t* p) { return _mm512_set1_epi32(static_cast<int32_t>(*p)); }
inline Words low_nibbles(Words x) { return _mm512_and_si512(x, _mm512_set1_epi32(0x0F0F0F0F)); }
inline Words high_nibbles(Words x) { return low_nibbles(_mm512_srli_epi32(x, 4)); }
// acc + Σ a · b over the four bytes of a word, those of a below 16 or 256, those of b signed, from −127 on.
inline I32 dot_bytes(I32 acc, Words a, Words b) {
  return __builtin_bit_cast(I32, _mm512_dpbusd_epi32(__builtin_bit_cast(__m512i, acc), a, b));
}
inline I32 dot_nibbles(I32 acc, Words a, Words b) { return dot_bytes(acc, a, b); }

// Nibbles i and i + 4 of a word, as numbers.
template <int i>
inline Pairs nibble_pairs(Words x) {
  // 0 to 15, twice, because a look-up takes five bits of its index.
  const __m256i numbers = _mm256_setr_epi16(0, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0, 0x4100, 0x4110,
                                            0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170);
  const __m512i found = _mm512_permutexvar_epi16(_mm512_srli_epi32(x, 4 * i), _mm512_broadcast_i64x4(numbers));
  return __builtin_bit_cast(Pairs, found);
}
// Bytes i and i + 2 of a word, less 128, as numbers.
template <int i>
inline Pairs byte_pairs(Words x) {
  const __m512i centred = _mm512_xor_si512(x, _mm512_set1_epi32(static_cast<int32_t>(0x80808080u)));
  const __m512i first = _mm512_srai_epi32(_mm512_slli_epi32(centred, 24 - 8 * i), 24);
  const __m512i second = _mm512_srai_epi32(_mm512_slli_epi32(centred, 8 - 8 * i), 24);
  const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(_mm512_cvtepi32_ps(first)), 16);
  const __m512i high = _mm512_castps_si512(_mm512_cvtepi32_ps(second));
  return __builtin_bit_cast(Pairs, _mm512_mask_blend_epi16(0xAAAAAAAA, low, high));
}

}  // namespace qwen2::cpu::avx512
