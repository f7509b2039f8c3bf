// What this processor can do at best, measured: the denominators of every "fraction of the machine's limit".
#pragma once

#include "cpu/context.h"

namespace qwen2::cpu {

#define QWEN2_LIMITS(level)                                    \
  namespace level {                                            \
  /* Sums a buffer, so that every byte is read. */             \
  float read_all(const float* data, int64_t size);             \
  /* Runs 24 independent chains of `dot`, `steps` long; returns the operations done, a multiply and an add being 2. */ \
  double dot_chains(int64_t steps, float* sink);               \
  /* The same of bytes. */                                     \
  double byte_chains(int64_t steps, float* sink);              \
  }
QWEN2_LIMITS(scalar)
QWEN2_LIMITS(avx2)
QWEN2_LIMITS(avx512)
#undef QWEN2_LIMITS

}  // namespace qwen2::cpu
