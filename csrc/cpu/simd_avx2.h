// SIMD words on AVX2 with FMA and F16C. See simd.h.
#pragma once

#include <immintrin.h>

namespace qwen2::cpu::avx2 {

constexpr int lanes = 8;
using F32 = __m256;
using Pairs = __m256i;
// Not __m256i: GCC 12 then keeps each sum of a `dot` in two registers, as the type that it is and as the one it is cast to.
using I32 = int32_t __attribute__((vector_size(32)));
using Words = __m256i;

inline __m256i first(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline F32 zero() { return _mm256_setzero_ps(); }
inline F32 splat(float x) { return _mm256_set1_ps(x); }
inline F32 load(const float* p) { return _mm256_loadu_ps(p); }
inline F32 load(const float* p, int count) { return _mm256_maskload_ps(p, first(count)); }
inline F32 widen(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
inline F32 load(const bf16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline F32 load(const bf16* p, int count) {
  bf16 whole[lanes] = {};
  __builtin_memcpy(whole, p, static_cast<size_t>(count) * sizeof(bf16));
  return load(whole);
}
inline F32 load(const f16* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline void store(float* p, F32 x) { _mm256_storeu_ps(p, x); }
inline void store(float* p, F32 x, int count) { _mm256_maskstore_ps(p, first(count), x); }
inline __m128i narrow(F32 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0b1000);
  return _mm256_castsi256_si128(packed);
}
inline void store(bf16* p, F32 x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x)); }
inline void store(bf16* p, F32 x, int count) {
  bf16 whole[lanes];
  store(whole, x);
  __builtin_memcpy(p, whole, static_cast<size_t>(count) * sizeof(bf16));
}

inline F32 add(F32 a, F32 b) { return _mm256_add_ps(a, b); }
inline F32 sub(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
inline F32 mul(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
inline F32 div(F32 a, F32 b) { return _mm256_div_ps(a, b); }
inline F32 abs(F32 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
inline F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
// Of max and min, b is returned where either is NaN.
inline F32 max(F32 a, F32 b) { return _mm256_max_ps(a, b); }
inline F32 min(F32 a, F32 b) { return _mm256_min_ps(a, b); }
inline F32 round(F32 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// n is integral, the result normal.
inline F32 times_power_of_two(F32 x, F32 n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent));
}
inline F32 zero_where_below(F32 x, F32 limit, F32 value) {
  return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), value);
}
inline float sum(F32 x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline float max_lane(F32 x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
inline uint32_t at_least(F32 x, F32 limit) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, limit, _CMP_GE_OQ)));
}
inline uint32_t above(F32 x, F32 limit) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, limit, _CMP_GT_OQ)));
}

inline Pairs load_pairs(const bf16* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_pairs(bf16* p, Pairs x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
inline Pairs splat_pair(const bf16* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return _mm256_set1_epi32(pair);
}
inline F32 first_of(Pairs x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
inline F32 second_of(Pairs x) {
  return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int32_t>(0xFFFF0000u))));
}
// acc + a.first · b.first + a.second · b.second
inline F32 dot(F32 acc, Pairs a, Pairs b) { return fma(second_of(a), second_of(b), fma(first_of(a), first_of(b), acc)); }

inline I32 splat_int(int32_t x) { return I32{} + x; }
inline I32 widen_bytes(const uint8_t* p) {
  return __builtin_bit_cast(I32, _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline F32 to_floats(I32 x) { return _mm256_cvtepi32_ps(__builtin_bit_cast(__m256i, x)); }
inline I32 round_to_int(F32 x) { return __builtin_bit_cast(I32, _mm256_cvtps_epi32(x)); }
inline void narrow_to_bytes(int8_t* p, I32 x) {
  const __m256i whole = __builtin_bit_cast(__m256i, x);
  const __m256i shorts = _mm256_permute4x64_epi64(_mm256_packs_epi32(whole, whole), 0b1000);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(shorts), _mm256_castsi256_si128(shorts));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), bytes);
}
inline I32 sub(I32 a, I32 b) { return a - b; }
inline int32_t sum(I32 x) {
  const __m256i whole = __builtin_bit_cast(__m256i, x);
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  half = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
  return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 1)));
}

inline Words load_words(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_words(uint32_t* p, Words x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
inline Words splat_word(const uint32_t* p) { return _mm256_set1_epi32(static_cast<int32_t>(*p)); }
inline Words low_nibbles(Words x) { return _mm256_and_si256(x, _mm256_set1_epi32(0x0F0F0F0F)); }
inline Words high_nibbles(Words x) { return low_nibbles(_mm256_srli_epi32(x, 4)); }
// acc + Σ a · b over the four bytes of a word, those of a below 128, those of b signed, from −127 on: two products fit
// into 16 bits.
inline I32 dot_small(I32 acc, Words a, Words b) {
  return acc + __builtin_bit_cast(I32, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}
// The same for bytes of a below 16 and below 256.
inline I32 dot_nibbles(I32 acc, Words a, Words b) { return dot_small(acc, a, b); }
inline I32 dot_bytes(I32 acc, Words a, Words b) {
  // The upper bit on its own is 128, and 2 · 128 · 127 fits too.
  const __m256i high_bit = _mm256_set1_epi8(static_cast<char>(0x80));
  const __m256i upper = _mm256_maddubs_epi16(_mm256_and_si256(a, high_bit), b);
  acc += __builtin_bit_cast(I32, _mm256_madd_epi16(upper, _mm256_set1_epi16(1)));
  return dot_small(acc, _mm256_andnot_si256(high_bit, a), b);
}

// Two integers a lane of at most 8 bits, as bf16: the upper halves of the floats that they are.
inline Pairs pairs_of(__m256i first, __m256i second) {
  const __m256i low = _mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(first)), 16);
  return _mm256_blend_epi16(low, _mm256_castps_si256(_mm256_cvtepi32_ps(second)), 0b10101010);
}
// Nibbles i and i + 4 of a word, as numbers.
template <int i>
inline Pairs nibble_pairs(Words x) {
  const __m256i mask = _mm256_set1_epi32(15);
  return pairs_of(_mm256_and_si256(_mm256_srli_epi32(x, 4 * i), mask),
                  _mm256_and_si256(_mm256_srli_epi32(x, 16 + 4 * i), mask));
}
// Bytes i and i + 2 of a word, less 128, as numbers.
template <int i>
inline Pairs byte_pairs(Words x) {
  const __m256i centred = _mm256_xor_si256(x, _mm256_set1_epi8(static_cast<char>(0x80)));
  return pairs_of(_mm256_srai_epi32(_mm256_slli_epi32(centred, 24 - 8 * i), 24),
                  _mm256_srai_epi32(_mm256_slli_epi32(centred, 8 - 8 * i), 24));
}

}  // namespace qwen2::cpu::avx2
