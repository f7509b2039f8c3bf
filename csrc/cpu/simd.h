// SIMD words: the same names at every level, chosen by QWEN2_SIMD. Kernels are written on these and on nothing of the
// instruction set itself.
//
//   F32    `lanes` floats              zero splat load store add sub mul div abs fma max min exp sum max_lane
//                                  at_least above (bit i: how lane i compares; never for a NaN)
//   Pairs  `lanes` pairs of bf16       load_pairs store_pairs splat_pair dot (the multiply-accumulate that weights are
//                                  packed for)
//   I32    `lanes` integers            splat_int widen_bytes to_floats round_to_int narrow_to_bytes sub sum
//   Words  `lanes` words of 32 bits,   load_words store_words splat_word low_nibbles high_nibbles dot_nibbles dot_bytes
//          each four bytes or eight    nibble_pairs byte_pairs (operands of `dot`)
//          nibbles of weights
//
// load and store convert from and to bf16 by the pointer's type, rounding to nearest even, and load from f16; with a count
// they touch only that many elements and fill with zeros.
#pragma once

#include "cpu/kernel.h"

#define QWEN2_SIMD_IS_scalar 1
#define QWEN2_SIMD_IS_avx2 2
#define QWEN2_SIMD_IS_avx512 3
#define QWEN2_SIMD_LEVEL_(level) QWEN2_SIMD_IS_##level
#define QWEN2_SIMD_LEVEL(level) QWEN2_SIMD_LEVEL_(level)

#if QWEN2_SIMD_LEVEL(QWEN2_SIMD) == 3
#include "cpu/simd_avx512.h"
#elif QWEN2_SIMD_LEVEL(QWEN2_SIMD) == 2
#include "cpu/simd_avx2.h"
#else
#include "cpu/simd_scalar.h"
#endif

namespace qwen2::cpu::QWEN2_SIMD {

// eˣ for x ≤ 88, to 2 ulps; 0 below −87.3, where the result would be subnormal; NaN stays NaN.
// Range reduction x = n·ln 2 + r and a degree-6 polynomial in r (minimax coefficients after Cephes' expf, S. Moshier).
inline F32 exp(F32 x) {
  const F32 clamped = max(splat(-87.3f), min(splat(88.0f), x));
  const F32 n = round(mul(clamped, splat(1.44269504088896341f)));
  F32 r = fma(n, splat(-0.693359375f), clamped);
  r = fma(n, splat(2.12194440e-4f), r);
  F32 p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  const F32 e = fma(mul(p, r), r, add(r, splat(1.0f)));
  return zero_where_below(x, splat(-87.3f), times_power_of_two(e, n));
}

}  // namespace qwen2::cpu::QWEN2_SIMD
