#include "cuda/device.h"

#include <cstdio>
#include <cstring>

#include "core/guard.h"
#include "cuda/context.h"
#include "cuda/kv_cache.h"
#include "cuda/limits.h"
#include "cuda/quantized.h"
#include "cuda/status.h"

namespace qwen2::cuda {
namespace {

constexpr int least_compute_capability = 80;  // cp.async, bf16 tensor cores
constexpr int least_driver = 13000;

// "13.0" of 13000.
struct Version {
  char text[16];
  explicit Version(int number) { std::snprintf(text, sizeof text, "%d.%d", number / 1000, number % 1000 / 10); }
};

void require_driver() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    fail("device_unavailable", "this machine has no NVIDIA driver; install version 580 or later");
  if (driver < least_driver)
    fail("device_unavailable",
         "the NVIDIA driver supports CUDA %s, and %s is needed; install driver version 580 or later",
         Version(driver).text, Version(least_driver).text);
}

DeviceFacts find_device(int index) {
  require_driver();
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess)
    fail("device_unavailable", "no GPU can be used: %s", cudaGetErrorString(status));
  if (index < 0 || index >= count)
    fail("device_unavailable", "there is no GPU number %d; this machine has %d, counted from 0", index, count);
  cudaDeviceProp properties{};
  require(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  DeviceFacts facts;
  facts.index = index;
  std::snprintf(facts.name, sizeof facts.name, "%s", properties.name);
  facts.compute_capability = 10 * properties.major + properties.minor;
  facts.multiprocessors = properties.multiProcessorCount;
  facts.shared_bytes_per_block = properties.sharedMemPerBlockOptin;
  if (facts.compute_capability < least_compute_capability)
    fail("device_unavailable", "%s has compute capability %d.%d, and 8.0 is needed (Ampere: A100, RTX 30, and later)",
         properties.name, properties.major, properties.minor);
  return facts;
}

Device& device_of(void* handle) { return *static_cast<Device*>(handle); }

// The calling thread's device is this one from here on.
void enter(const DeviceFacts& facts) { require(cudaSetDevice(facts.index), "cudaSetDevice"); }

Context& entered(void* handle) {
  Context& context = *static_cast<Context*>(handle);
  enter(context.device());
  return context;
}

int32_t open(const DeviceOptions* options, void** device, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] {
    const DeviceFacts facts = find_device(options->index);
    enter(facts);
    *device = new Device{facts, {}};
  });
}

void close(void* device) {
  cudaSetDevice(device_of(device).facts.index);
  delete &device_of(device);
}

void describe(void* device, DeviceDescription* description) {
  const DeviceFacts& facts = device_of(device).facts;
  std::snprintf(description->name, sizeof description->name, "%.80s, compute capability %d.%d", facts.name,
                facts.compute_capability / 10, facts.compute_capability % 10);
  std::snprintf(description->variant, sizeof description->variant, "sm_%d", facts.compute_capability);
  description->threads = 0;
  size_t free = 0, total = 0;
  cudaSetDevice(facts.index);
  cudaMemGetInfo(&free, &total);
  description->free_bytes = free;
  description->total_bytes = total;
}

int32_t allocate(void* device, uint64_t bytes, void** memory, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] {
    enter(device_of(device).facts);
    *memory = device_of(device).memory.allocate(bytes);
  });
}

void release(void* device, void* memory, uint64_t bytes) {
  cudaSetDevice(device_of(device).facts.index);
  device_of(device).memory.release(memory, bytes);
}

// Rows in pairs of eight (gate and up, see csrc/cuda/matmul.h).
uint64_t packed_bytes(void*, int32_t dtype, int64_t rows, int64_t columns, int32_t group) {
  if (is_quantized(static_cast<DType>(dtype))) return quantized_bytes(static_cast<DType>(dtype), rows, columns, group);
  return static_cast<uint64_t>((rows + 15) / 16 * 16) * static_cast<uint64_t>(columns) * sizeof(bf16);
}

uint64_t kv_block_bytes(void*, int32_t dtype, int32_t kv_heads, int32_t head_dim, int32_t block_size) {
  const KvBlock block{kv_heads, head_dim, block_size};
  return kv_bytes(static_cast<DType>(dtype), block.elements(), block.scales());
}

int32_t create_context(void* device, void** context, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] {
    enter(device_of(device).facts);
    *context = new Context(device_of(device));
  });
}

void destroy_context(void* context) {
  cudaSetDevice(static_cast<Context*>(context)->device().index);
  delete static_cast<Context*>(context);
}

int32_t upload(void* context, void* to, const void* from, uint64_t bytes, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] { entered(context).upload(to, from, bytes); });
}

int32_t download(void* context, void* to, const void* from, uint64_t bytes, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] { entered(context).download(to, from, bytes); });
}

int32_t synchronize(void* context, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] { entered(context).synchronize(); });
}

int32_t measure(void* context, DeviceLimits* limits, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] { *limits = measure_limits(entered(context)); });
}

int32_t begin_capture(void* context, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] { entered(context).begin_capture(); });
}

int32_t end_capture(void* context, void** graph, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] { *graph = entered(context).end_capture(); });
}

int32_t launch_graph(void* context, void* graph, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] { entered(context).launch(static_cast<cudaGraphExec_t>(graph)); });
}

void destroy_graph(void* device, void* graph) {
  cudaSetDevice(device_of(device).facts.index);
  cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
}

int32_t allocate_staging(void* device, uint64_t bytes, void** memory, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] {
    enter(device_of(device).facts);
    require(cudaHostAlloc(memory, bytes, cudaHostAllocDefault), "allocating pinned memory");
  });
}

void release_staging(void* device, void* memory) {
  cudaSetDevice(device_of(device).facts.index);
  cudaFreeHost(memory);
}

int32_t upload_staged(void* context, void* to, const void* from, uint64_t bytes, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] {
    const cudaStream_t stream = entered(context).stream();
    require(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "an upload");
    // The caller reads the next part of its file into `from` then.
    require(cudaStreamSynchronize(stream), "an upload");
  });
}

}  // namespace

DeviceApi device_api(std::span<const Kernel> kernels) {
  return {.version = device_api_version,
          .op_count = static_cast<uint32_t>(kernels.size()),
          .kernels = kernels.data(),
          .open = open,
          .close = close,
          .describe = describe,
          .allocate = allocate,
          .release = release,
          .packed_bytes = packed_bytes,
          .kv_block_bytes = kv_block_bytes,
          .create_context = create_context,
          .destroy_context = destroy_context,
          .upload = upload,
          .download = download,
          .synchronize = synchronize,
          .measure = measure,
          .begin_capture = begin_capture,
          .end_capture = end_capture,
          .launch_graph = launch_graph,
          .destroy_graph = destroy_graph,
          .allocate_staging = allocate_staging,
          .release_staging = release_staging,
          .upload_staged = upload_staged};
}

}  // namespace qwen2::cuda
