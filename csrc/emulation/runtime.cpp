#include "emulation/runtime_api.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <variant>
#include <vector>

#include "emulation/executor.h"
#include "emulation/options.h"

namespace qwen2::emulation {

class Event {
 public:
  Stream* recorded_on = nullptr;
  uint64_t ticket = 0;  // place in that stream
};

// What waits in a stream: launches, and everything else, which is a closure.
struct Work {
  std::shared_ptr<Grid> grid;
  std::function<void()> other;
};

class Graph {
 public:
  std::vector<Work> work;
  int users = 1;
};

class Stream {
 public:
  std::vector<Work> queue;
  uint64_t done = 0;  // tickets whose work has run
  std::unique_ptr<Graph> capture;

  void add(Work work) { (capture ? capture->work : queue).push_back(std::move(work)); }
  uint64_t last_ticket() const { return done + queue.size(); }
  void drain(uint64_t ticket);
};

namespace {

// One device, one lock: streams of several threads take turns.
std::recursive_mutex the_lock;
std::list<Stream*> streams;
std::map<void*, std::unique_ptr<GuardedMemory>> allocations;
std::deque<std::unique_ptr<GuardedMemory>> retired;  // freed last: what still uses it is found
constexpr size_t most_retired = 1000;
std::string report = "no error";

constexpr size_t device_bytes = size_t{8} << 30;
size_t allocated_bytes = 0;

cudaError_t fail_with(cudaError_t error, std::string text) {
  report = std::move(text);
  return error;
}

void check_slacks() {
  for (const auto& [address, memory] : allocations)
    if (!memory->slack_is_intact())
      throw Fault("device memory was written beyond the end of an allocation of " + std::to_string(memory->bytes()) +
                  " bytes");
}

// Runs `body`; a fault becomes the device's error.
template <typename Body>
cudaError_t run(Body body) {
  const std::lock_guard lock(the_lock);
  try {
    body();
    return cudaSuccess;
  } catch (const Fault& e) {
    return fail_with(cudaErrorLaunchFailure, e.what());
  }
}

}  // namespace

// Launches that follow each other run as one, so that dependent ones can overlap.
void Stream::drain(uint64_t ticket) {
  while (done < ticket && !queue.empty()) {
    std::vector<std::unique_ptr<Grid>> grids;
    size_t count = 0;
    while (count < queue.size() && done + count < ticket && queue[count].grid &&
           (count == 0 || queue[count].grid->dependent)) {
      grids.push_back(std::make_unique<Grid>(*queue[count].grid));
      ++count;
    }
    std::vector<Work> taken(std::make_move_iterator(queue.begin()),
                            std::make_move_iterator(queue.begin() + static_cast<std::ptrdiff_t>(std::max<size_t>(count, 1))));
    queue.erase(queue.begin(), queue.begin() + static_cast<std::ptrdiff_t>(taken.size()));
    done += taken.size();
    if (count > 0) {
      run_grids(grids);
    } else {
      taken[0].other();
    }
  }
}

void enqueue_grid(Stream* stream, dim3 blocks, dim3 threads, size_t shared_bytes, bool dependent,
                  std::function<void()> body) {
  const std::lock_guard lock(the_lock);
  auto grid = std::make_shared<Grid>();
  grid->blocks = blocks;
  grid->threads = threads;
  grid->shared_bytes = shared_bytes;
  grid->dependent = dependent;
  grid->body = std::move(body);
  stream->add({std::move(grid), nullptr});
}

std::byte* shared_memory() { return current->block->shared->data(); }

namespace {

void enqueue(Stream* stream, std::function<void()> work) {
  const std::lock_guard lock(the_lock);
  stream->add({nullptr, std::move(work)});
}

}  // namespace
}  // namespace qwen2::emulation

using namespace qwen2::emulation;

const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : report.c_str(); }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : fail_with(cudaErrorInvalidDevice, "invalid device ordinal");
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "emulation");
  properties->major = 9;
  properties->multiProcessorCount = options().multiprocessors;
  properties->totalGlobalMem = device_bytes;
  properties->sharedMemPerBlockOptin = 99 << 10;  // of compute capability 8.6, the least of those that are supported
  properties->l2CacheSize = 4 << 20;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard lock(the_lock);
  *free = device_bytes - allocated_bytes;
  *total = device_bytes;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const std::lock_guard lock(the_lock);
  if (bytes > device_bytes - allocated_bytes) return fail_with(cudaErrorMemoryAllocation, "out of memory");
  auto guarded = std::make_unique<GuardedMemory>(bytes, 256);
  *memory = guarded->data();
  allocated_bytes += bytes;
  allocations.emplace(*memory, std::move(guarded));
  return cudaSuccess;
}

// Work that still uses the memory runs first, as on a device.
cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  const cudaError_t error = cudaDeviceSynchronize();
  const std::lock_guard lock(the_lock);
  const auto found = allocations.find(memory);
  if (found == allocations.end()) return fail_with(cudaErrorInvalidValue, "this memory was not allocated");
  allocated_bytes -= found->second->bytes();
  found->second->retire();
  retired.push_back(std::move(found->second));
  if (retired.size() > most_retired) retired.pop_front();
  allocations.erase(found);
  return error;
}

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  *memory = ::operator new(bytes, std::align_val_t{4096});
  std::memset(*memory, poison_byte, bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  ::operator delete(memory, std::align_val_t{4096});
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  enqueue(stream, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::lock_guard lock(the_lock);
  *stream = new Stream;
  streams.push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const cudaError_t error = cudaStreamSynchronize(stream);
  const std::lock_guard lock(the_lock);
  streams.remove(stream);
  delete stream;
  return error;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return run([&] {
    try {
      stream->drain(stream->last_ticket());
    } catch (...) {
      // What is behind a fault never runs.
      stream->done = stream->last_ticket();
      stream->queue.clear();
      throw;
    }
    check_slacks();
  });
}
cudaError_t cudaDeviceSynchronize() {
  const std::lock_guard lock(the_lock);
  cudaError_t first = cudaSuccess;
  for (Stream* stream : streams) {
    const cudaError_t error = cudaStreamSynchronize(stream);
    if (first == cudaSuccess) first = error;
  }
  return first;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new Event;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(the_lock);
  event->recorded_on = stream;
  event->ticket = stream->last_ticket();
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(the_lock);
  if (event->recorded_on == nullptr || event->recorded_on->done >= event->ticket) return cudaSuccess;
  // Time passes only when somebody waits: a query alone may wait for ever.
  return run([&] { event->recorded_on->drain(event->ticket); }) == cudaSuccess ? cudaErrorNotReady
                                                                              : cudaErrorLaunchFailure;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return run([&] {
    if (event->recorded_on != nullptr) event->recorded_on->drain(event->ticket);
  });
}
cudaError_t cudaEventElapsedTime(float*, cudaEvent_t, cudaEvent_t) {
  return fail_with(cudaErrorInvalidValue, "the emulation has no clock");
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const std::lock_guard lock(the_lock);
  Stream* other = event->recorded_on;
  const uint64_t ticket = event->ticket;
  if (other != nullptr && other != stream) enqueue(stream, [=] { other->drain(ticket); });
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::lock_guard lock(the_lock);
  if (stream->capture) return fail_with(cudaErrorInvalidValue, "the stream is being captured");
  stream->capture = std::make_unique<Graph>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(the_lock);
  if (!stream->capture) return fail_with(cudaErrorInvalidValue, "the stream is not being captured");
  *graph = stream->capture.release();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new Graph{graph->work, 1};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const std::lock_guard lock(the_lock);
  for (const Work& work : executable->work) stream->add(work);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return cudaGraphDestroy(executable); }

cudaError_t qwen2_check_launch(const cudaLaunchConfig_t& config) {
  const uint64_t threads = uint64_t{config.blockDim.x} * config.blockDim.y * config.blockDim.z;
  const uint64_t blocks = uint64_t{config.gridDim.x} * config.gridDim.y * config.gridDim.z;
  if (blocks == 0 || threads == 0 || threads > 1024 || config.gridDim.y > 65535 || config.gridDim.z > 65535)
    return fail_with(cudaErrorInvalidValue, "invalid configuration of a launch");
  cudaDeviceProp properties;
  cudaGetDeviceProperties(&properties, 0);
  if (config.dynamicSmemBytes > properties.sharedMemPerBlockOptin)
    return fail_with(cudaErrorInvalidValue, "a launch asks for " + std::to_string(config.dynamicSmemBytes) +
                                                " bytes of shared memory, a block has " +
                                                std::to_string(properties.sharedMemPerBlockOptin));
  return cudaSuccess;
}
