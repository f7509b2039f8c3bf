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
#include "cuda/ptx.h"
#include "cuda/reduce.h"
#include "cuda/shared.h"

namespace qwen2::cuda::selftest {

// A device to launch on, and memory on it.
class Bench {
 public:
  Bench() : device_{facts(), {}}, context_(device_) {}
  ~Bench() {
    for (void* memory : memory_) cudaFree(memory);
  }

  Context& context() { return context_; }

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

// 0, 1, 2 …
inline std::vector<int> counting(size_t count) {
  std::vector<int> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<int>(i);
  return values;
}

}  // namespace qwen2::cuda::selftest
