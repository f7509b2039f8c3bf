// What a kernel of the CPU device is given beside its arguments: the threads, and scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/thread_pool.h"

namespace qwen2::cpu {

// The levels, each compiled from the same sources into a namespace of its name.
enum class Simd { scalar, avx2, avx512 };

class Context {
 public:
  explicit Context(ThreadPool& pool);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  ThreadPool& pool() const { return pool_; }
  int threads() const { return pool_.threads(); }

  // At least `bytes`, 64-byte aligned, of undefined content, valid until the next call with the same worker. Worker −1
  // is shared by all threads of an operation and must be taken before its loop.
  void* scratch(int worker, size_t bytes);

 private:
  struct Buffer {
    void* data = nullptr;
    size_t bytes = 0;
  };
  ThreadPool& pool_;
  Buffer* buffers_;  // threads() + 1 of them
};

}  // namespace qwen2::cpu
