#include "cpu/limits.h"

#include "cpu/simd.h"

namespace qwen2::cpu::QWEN2_SIMD {

float read_all(const float* data, int64_t size) {
  constexpr int streams = 8;
  F32 acc[streams];
  for (F32& a : acc) a = zero();
  for (int64_t i = 0; i + streams * lanes <= size; i += streams * lanes)
    for (int s = 0; s < streams; ++s) acc[s] = add(acc[s], load(data + i + s * lanes));
  for (int s = 1; s < streams; ++s) acc[0] = add(acc[0], acc[s]);
  return sum(acc[0]);
}

// As many as the register file holds beside two operands.
constexpr int chains = lanes == 16 ? 24 : 10;

double dot_chains(int64_t steps, float* sink) {
  alignas(64) bf16 ones[2 * lanes];
  for (bf16& one : ones) one = to_bf16(1e-3f);
  const Pairs a = load_pairs(ones), b = load_pairs(ones);
  F32 acc[chains];
  for (F32& x : acc) x = zero();
  for (int64_t step = 0; step < steps; ++step)
    for (F32& x : acc) x = dot(x, a, b);
  for (int c = 1; c < chains; ++c) acc[0] = add(acc[0], acc[c]);
  *sink = sum(acc[0]);
  return static_cast<double>(steps) * chains * lanes * 4;
}

double byte_chains(int64_t steps, float* sink) {
  const uint32_t ones = 0x01010101u;
  const Words a = splat_word(&ones);
  I32 acc[chains];
  for (I32& x : acc) x = splat_int(0);
  for (int64_t step = 0; step < steps; ++step)
    for (I32& x : acc) x = dot_nibbles(x, a, a);
  for (int c = 1; c < chains; ++c) acc[0] = sub(acc[0], acc[c]);
  *sink = static_cast<float>(sum(acc[0]));
  return static_cast<double>(steps) * chains * lanes * 8;
}

}  // namespace qwen2::cpu::QWEN2_SIMD
