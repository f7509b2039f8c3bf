// What only the device can find wrong, such as an id out of range: noted there, reported by the next wait on the stream.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace qwen2::cuda {

// The first error since the last wait.
struct DataError {
  int32_t taken;
  int32_t call;        // which call of an operation found it
  const char* format;  // of the host: printf's, with up to three %lld and then a %g
  int64_t numbers[3];
  double value;
};

// A kernel argument: where to note an error, and what it will say.
struct ErrorSlot {
  DataError* error;
  const char* format;
  int32_t call;
};

// Not for files that the host's compiler alone compiles.
#if defined(__CUDACC__) || defined(QWEN2_EMULATED)
__device__ inline void report(const ErrorSlot& slot, int64_t a, int64_t b = 0, int64_t c = 0, double value = 0) {
  if (atomicCAS(&slot.error->taken, 0, 1) != 0) return;
  slot.error->call = slot.call;
  slot.error->format = slot.format;
  slot.error->numbers[0] = a;
  slot.error->numbers[1] = b;
  slot.error->numbers[2] = c;
  slot.error->value = value;
}
#endif

}  // namespace qwen2::cuda
