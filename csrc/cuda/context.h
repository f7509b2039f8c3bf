// What the launcher of an operation is given beside its arguments: a stream of the device, and what belongs to it.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "cuda/calls.h"
#include "cuda/data_errors.h"
#include "cuda/memory.h"

namespace qwen2::cuda {

struct DeviceFacts {
  int index = 0;
  char name[256] = {};
  int compute_capability = 0;  // 90 for 9.0
  int multiprocessors = 0;
  size_t shared_bytes_per_block = 0;
};

struct Device {
  DeviceFacts facts;
  Memory memory;
};

class Context {
 public:
  explicit Context(Device& device);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const DeviceFacts& device() const { return device_.facts; }
  cudaStream_t stream() const { return stream_; }
  // Device memory that the operations of this stream share, one after another: valid for one operation.
  void* workspace(size_t bytes);
  // Counters on the device that are zero, and that whoever counts with them leaves zero.
  static constexpr int max_counters = 1 << 16;
  unsigned* counters() const { return counters_; }
  // Where the operation that is being launched notes an error of its data; see ErrorSlot.
  ErrorSlot errors(const char* format) { return {error_, format, calls_.current()}; }
  Calls& calls() { return calls_; }

  void upload(void* to, const void* from, size_t bytes);
  void download(void* to, const void* from, size_t bytes);
  void synchronize();

  void begin_capture();
  cudaGraphExec_t end_capture();
  void launch(cudaGraphExec_t graph);

 private:
  // Pinned memory that uploads pass through: reused when the copy out of it is done.
  struct Staging {
    void* memory = nullptr;
    cudaEvent_t copied = nullptr;
  };
  static constexpr size_t staging_bytes = 256 << 10;
  static constexpr int staging_count = 16;

  void throw_data_error();

  Device& device_;
  cudaStream_t stream_ = nullptr;
  std::vector<void*> workspaces_;  // the last is in use, the others belong to captured graphs
  size_t workspace_bytes_ = 0;
  unsigned* counters_ = nullptr;
  Calls calls_;
  DataError* error_ = nullptr;          // device
  void* pinned_ = nullptr;              // holds what follows
  DataError* error_on_host_ = nullptr;
  Staging staging_[staging_count];
  int next_staging_ = 0;
  void* download_buffer_ = nullptr;  // staging_bytes
};

}  // namespace qwen2::cuda
