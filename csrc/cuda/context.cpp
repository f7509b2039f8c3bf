#include "cuda/context.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

#include "cuda/status.h"

namespace qwen2::cuda {

Context::Context(Device& device) : device_(device) {
  require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  void* memory = device_.memory.allocate(max_counters * sizeof(unsigned) + sizeof(DataError));
  counters_ = static_cast<unsigned*>(memory);
  error_ = reinterpret_cast<DataError*>(counters_ + max_counters);
  require(cudaMemsetAsync(memory, 0, max_counters * sizeof(unsigned) + sizeof(DataError), stream_), "cudaMemset");
  // One piece for all: pinning takes a millisecond each time.
  constexpr size_t pinned_bytes = (staging_count + 1) * staging_bytes + sizeof(DataError);
  require(cudaHostAlloc(&pinned_, pinned_bytes, cudaHostAllocDefault), "cudaHostAlloc");
  auto* next = static_cast<std::byte*>(pinned_);
  for (Staging& staging : staging_) {
    staging.memory = std::exchange(next, next + staging_bytes);
    require(cudaEventCreateWithFlags(&staging.copied, cudaEventDisableTiming), "cudaEventCreate");
  }
  download_buffer_ = std::exchange(next, next + staging_bytes);
  error_on_host_ = reinterpret_cast<DataError*>(next);
  device_.memory.add(stream_);
}

Context::~Context() {
  device_.memory.remove(stream_);
  cudaStreamDestroy(stream_);
  for (void* workspace : workspaces_) cudaFree(workspace);
  for (Staging& staging : staging_) cudaEventDestroy(staging.copied);
  cudaFreeHost(pinned_);
  device_.memory.release(counters_, max_counters * sizeof(unsigned) + sizeof(DataError));
}

// A captured graph keeps using the workspace that it was captured with, so the old ones stay; doubling bounds what they
// take to that of the last.
void* Context::workspace(size_t bytes) {
  if (bytes > workspace_bytes_) {
    const size_t larger = std::max({bytes, 2 * workspace_bytes_, size_t{4} << 20});
    void* memory = nullptr;
    require(cudaMalloc(&memory, larger), "cudaMalloc of a workspace");
    workspaces_.push_back(memory);
    workspace_bytes_ = larger;
  }
  return workspaces_.empty() ? nullptr : workspaces_.back();
}

void Context::upload(void* to, const void* from, size_t bytes) {
  for (size_t done = 0; done < bytes; done += staging_bytes) {
    const size_t part = std::min(staging_bytes, bytes - done);
    const Staging& staging = staging_[next_staging_++ % staging_count];
    require(cudaEventSynchronize(staging.copied), "waiting for an upload");
    std::memcpy(staging.memory, static_cast<const char*>(from) + done, part);
    require(cudaMemcpyAsync(static_cast<char*>(to) + done, staging.memory, part, cudaMemcpyHostToDevice, stream_),
            "an upload");
    require(cudaEventRecord(staging.copied, stream_), "cudaEventRecord");
  }
}

void Context::download(void* to, const void* from, size_t bytes) {
  for (size_t done = 0; done < bytes; done += staging_bytes) {
    const size_t part = std::min(staging_bytes, bytes - done);
    require(cudaMemcpyAsync(download_buffer_, static_cast<const char*>(from) + done, part, cudaMemcpyDeviceToHost,
                            stream_),
            "a download");
    synchronize();
    std::memcpy(static_cast<char*>(to) + done, download_buffer_, part);
  }
}

void Context::synchronize() {
  require(cudaMemcpyAsync(error_on_host_, error_, sizeof(DataError), cudaMemcpyDeviceToHost, stream_), "a download");
  require(cudaStreamSynchronize(stream_), "the work on the device");
  if (error_on_host_->taken != 0) throw_data_error();
}

void Context::throw_data_error() {
  cudaMemsetAsync(error_, 0, sizeof(DataError), stream_);
  const auto& [taken, call, format, numbers, value] = *error_on_host_;
  char text[512];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  std::snprintf(text, sizeof text, format, static_cast<long long>(numbers[0]), static_cast<long long>(numbers[1]),
                static_cast<long long>(numbers[2]), value);
#pragma GCC diagnostic pop
  fail("invalid_argument", "%s%s on %s", text, calls_.describe(call).c_str(), device_.facts.name);
}

// The lock is held from here to the end of the capture: an event recorded meanwhile would become part of the graph.
void Context::begin_capture() {
  device_.memory.lock().lock();
  const cudaError_t status = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed);
  if (status != cudaSuccess) device_.memory.lock().unlock();
  require(status, "cudaStreamBeginCapture");
  calls_.set_capturing(true);
}

cudaGraphExec_t Context::end_capture() {
  calls_.set_capturing(false);
  cudaGraph_t graph = nullptr;
  const cudaError_t status = cudaStreamEndCapture(stream_, &graph);
  device_.memory.lock().unlock();
  require(status, "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t instantiated = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  require(instantiated, "cudaGraphInstantiate");
  return executable;
}

void Context::launch(cudaGraphExec_t graph) { require(cudaGraphLaunch(graph, stream_), "cudaGraphLaunch"); }

}  // namespace qwen2::cuda
