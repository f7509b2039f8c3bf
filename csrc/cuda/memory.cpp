#include "cuda/memory.h"

#include <algorithm>
#include <bit>

#include "cuda/status.h"

namespace qwen2::cuda {
namespace {

// Pieces above this are given back at once: weights and caches, which are released rarely.
constexpr size_t largest_kept = 1 << 20;

size_t size_class(size_t bytes) { return std::bit_ceil(std::max<size_t>(bytes, 512)); }

}  // namespace

Memory::~Memory() {
  for (auto& [size, pieces] : kept_)
    for (Released& piece : pieces) {
      for (cudaEvent_t event : piece.used_until) cudaEventDestroy(event);
      cudaFree(piece.memory);
    }
  for (cudaEvent_t event : spare_events_) cudaEventDestroy(event);
}

void* Memory::allocate(size_t bytes) {
  const std::lock_guard lock(mutex_);
  const bool kept = bytes <= largest_kept;
  if (kept) {
    auto& pieces = kept_[size_class(bytes)];
    const auto found = std::find_if(pieces.begin(), pieces.end(), [this](Released& piece) { return is_free(piece); });
    if (found != pieces.end()) {
      void* memory = found->memory;
      pieces.erase(found);
      return memory;
    }
  }
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, kept ? size_class(bytes) : bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail("out_of_memory",
         "%.2f GB of device memory were asked for and %.2f of %.2f GB are free; use a smaller model, fewer or shorter "
         "sequences, or end other programs on the GPU",
         static_cast<double>(bytes) / 1e9, static_cast<double>(free) / 1e9, static_cast<double>(total) / 1e9);
  }
  require(status, "cudaMalloc");
  return memory;
}

void Memory::release(void* memory, size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > largest_kept) {
    cudaFree(memory);  // waits for the device
    return;
  }
  Released piece{memory, {}};
  for (cudaStream_t stream : streams_) {
    cudaEvent_t event = nullptr;
    if (spare_events_.empty()) {
      if (cudaEventCreateWithFlags(&event, cudaEventDisableTiming) != cudaSuccess) continue;
    } else {
      event = spare_events_.back();
      spare_events_.pop_back();
    }
    cudaEventRecord(event, stream);
    piece.used_until.push_back(event);
  }
  kept_[size_class(bytes)].push_back(std::move(piece));
}

bool Memory::is_free(Released& piece) {
  while (!piece.used_until.empty()) {
    if (cudaEventQuery(piece.used_until.back()) == cudaErrorNotReady) return false;
    spare_events_.push_back(piece.used_until.back());
    piece.used_until.pop_back();
  }
  return true;
}

void Memory::add(cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  streams_.push_back(stream);
}

void Memory::remove(cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  std::erase(streams_, stream);
}

}  // namespace qwen2::cuda
