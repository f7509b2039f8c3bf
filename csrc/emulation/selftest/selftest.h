// Kernels with one planted bug each, and the same kernels without it. The emulation must let the right ones through under
// every schedule and find the broken ones: by a report, or because the result is wrong.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "cuda/launch.h"
#include "cuda/ptx_sm90.h"
#include "cuda/reduce.h"
#include "cuda/shared.h"
#include "cuda/tensor_map.h"

namespace qwen2::cuda::selftest {

// Compute capabilities without end.
constexpr int all_newer = 1000;

// Thrown where the device lacks a case's instructions.
struct Absent {};

// A device to launch on, and memory on it.
class Bench {
 public:
  Bench() : device_{facts(), {}}, context_(device_) {}
  ~Bench() {
    for (void* memory : memory_) cudaFree(memory);
  }

  Context& context() { return context_; }

  // A case calls it first whose instructions are of these compute capabilities alone.
  void needs(int from, int to) const {
    const int here = device_.facts.compute_capability;
    if (here < from || here > to) throw Absent{};
  }

  // Poisoned device memory, as large as the vector, or with its contents.
  template <typename T>
  T* empty(size_t count) {
    void* memory = nullptr;
    require(cudaMalloc(&memory, count * sizeof(T)), "cudaMalloc");
    memory_.push_back(memory);
    return static_cast<T*>(memory);
  }
  template <typename T>
  T* from(const std::vector<T>& values) {
    T* memory = empty<T>(values.size());
    context_.upload(memory, values.data(), values.size() * sizeof(T));
    return memory;
  }
  template <typename T>
  std::vector<T> read(const T* memory, size_t count) {
    std::vector<T> values(count);
    context_.download(values.data(), memory, count * sizeof(T));
    return values;
  }

 private:
  static DeviceFacts facts() {
    cudaDeviceProp properties{};
    require(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    DeviceFacts facts;
    facts.compute_capability = 10 * properties.major + properties.minor;
    facts.multiprocessors = properties.multiProcessorCount;
    facts.shared_bytes_per_block = properties.sharedMemPerBlockOptin;
    return facts;
  }

  Device device_;
  Context context_;
  std::vector<void*> memory_;
};

// Runs the kernel, with its bug or without; returns whether the result is right, and throws what the emulation reports.
using Case = bool (*)(Bench& bench, bool broken);

inline std::map<std::string, Case>& cases() {
  static std::map<std::string, Case> cases;
  return cases;
}

struct Registered {
  Registered(const char* name, Case run) { cases().emplace(name, run); }
};

// PLANTED(missing_barrier) { body that sees `bench` and `broken` }
#define PLANTED(name)                                  \
  static bool name(Bench& bench, bool broken);         \
  static const Registered registered_##name(#name, name); \
  static bool name(Bench& bench, bool broken)

// The bug of a kernel whose bugs nvcc would warn of: a GPU runs right ones only, and is given no others.
template <typename Bug>
__device__ constexpr Bug planted([[maybe_unused]] Bug bug) {
#if defined(QWEN2_EMULATED)
  return bug;
#else
  return Bug{};
#endif
}

// Numbers of both signs and many magnitudes, a function of i.
inline float random_float(uint32_t i) {
  uint32_t z = i * 0x9E3779B9u + 0x85EBCA6Bu;
  z = (z ^ z >> 15) * 0x2C1B3C6Du;
  z ^= z >> 13;
  const float fraction = static_cast<float>(z & 0xFFFFFFu) * 0x1p-24f + 0.5f;
  return (z >> 31 ? -1.0f : 1.0f) * std::ldexp(fraction, static_cast<int>(z >> 24 & 31) - 16);
}

// The same as bf16 between -1 and 1.
inline std::vector<uint16_t> random_bf16(size_t count, uint32_t seed) {
  std::vector<uint16_t> values(count);
  for (size_t i = 0; i < count; ++i)
    values[i] = to_bf16(std::remainder(random_float(static_cast<uint32_t>(i) + 65536 * seed), 2.0f)).bits;
  return values;
}

// 0, 1, 2 …
inline std::vector<int> counting(size_t count) {
  std::vector<int> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<int>(i);
  return values;
}

}  // namespace qwen2::cuda::selftest
