// What a KV cache's elements are to kernels.
#pragma once

#include "cuda/bf16.h"
#include "cuda/kv_cache.h"

namespace qwen2::cuda {

struct KvBf16 {
  static constexpr DType dtype = DType::bf16;
  static constexpr int bytes = 2;
  static constexpr bool quantized = false;
};

// pair: bytes 0 and 2 of a word as a pair of bf16, exactly, without their scales.

struct KvInt8 {
  using Rounding = Int8Kv;
  static constexpr DType dtype = DType::int8;
  static constexpr int bytes = 1;
  static constexpr bool quantized = true;
  __device__ static uint32_t pair(uint32_t word) { return bf16_pair_of_bytes(word); }
};

struct KvFp8 {
  using Rounding = Fp8Kv;
  static constexpr DType dtype = DType::fp8;
  static constexpr int bytes = 1;
  static constexpr bool quantized = true;
  // The bits where a bf16 has them, and 2¹²⁰ for the exponents' other bias.
  __device__ static uint32_t pair(uint32_t word) {
    constexpr uint32_t power = 0x7B807B80, minus_zero = 0x80008000;
    return fma_bf16x2(lop3_and_or(word << 4, 0x07F007F0, word << 8 & 0x80008000), power, minus_zero);
  }
};

}  // namespace qwen2::cuda
