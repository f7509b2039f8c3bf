// Device memory. Small pieces are kept when they are released, because giving them back makes the device wait.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <map>
#include <mutex>
#include <vector>

namespace qwen2::cuda {

class Memory {
 public:
  Memory() = default;
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Throws out_of_memory with what was asked for and what is free.
  void* allocate(size_t bytes);
  // Work that was enqueued before may still use the memory; it is not handed out again before that work is done.
  void release(void* memory, size_t bytes);

  // Streams whose work may use memory.
  void add(cudaStream_t stream);
  void remove(cudaStream_t stream);
  // While a stream is captured nothing else may be recorded.
  std::mutex& lock() { return mutex_; }

 private:
  // A released piece, and the points that the streams have to pass before it is free.
  struct Released {
    void* memory;
    std::vector<cudaEvent_t> used_until;
  };
  bool is_free(Released& piece);

  std::mutex mutex_;
  std::vector<cudaStream_t> streams_;
  std::map<size_t, std::vector<Released>> kept_;  // by size
  std::vector<cudaEvent_t> spare_events_;
};

}  // namespace qwen2::cuda
