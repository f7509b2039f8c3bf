// out[i] = uniform in (mean − √3·std, mean + √3·std), a function of (seed, i) only: counter-based, so that any part can
// be filled by any thread, and every device fills alike.
//
// Random weights for benchmarks and tests. A packed weight is filled as stored, padding included.
// The draw: splitmix64 (Steele, Lea, Flood 2014) of seed · 2³² + i, its top 24 bits as the fraction.
#pragma once

#include "core/op.h"

namespace qwen2 {

struct FillRandomArgs {
  Tensor out;  // f32 or bf16, contiguous, or a packed bf16 weight
  int32_t seed;
  float mean;
  float std;
};
QWEN2_FIELDS(FillRandomArgs, out, seed, mean, std)

void check(Contract& contract, const FillRandomArgs& args);

// The i-th value, before rounding to the dtype of out.
QWEN2_HOST_DEVICE static inline float random_value(int32_t seed, int64_t i, float mean, float spread) {
  uint64_t z = (uint64_t{static_cast<uint32_t>(seed)} << 32) + static_cast<uint64_t>(i) + 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  const float fraction = static_cast<float>(static_cast<int32_t>(z >> 40)) * 0x1p-24f;
  return mean + spread * (2 * fraction - 1);
}

}  // namespace qwen2
