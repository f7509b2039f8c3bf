#include "reference/device.h"

#include <cstdio>
#include <cstring>

#include "core/guard.h"
#include "core/host_memory.h"
#include "reference/kv_cache.h"

namespace qwen2::reference {
namespace {

int32_t open(const DeviceOptions* options, void** device, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] {
    if (options->index != 0) fail("device_unavailable", "there is one reference device; use 'reference'");
    static char the_device;
    *device = &the_device;
  });
}

void close(void*) {}

void describe(void*, DeviceDescription* description) {
  std::snprintf(description->name, sizeof description->name, "plain scalar kernels, 1 thread");
  std::snprintf(description->variant, sizeof description->variant, "reference");
  description->threads = 1;
  description->total_bytes = total_host_bytes();
  description->free_bytes = free_host_bytes();
}

int32_t allocate(void*, uint64_t bytes, void** memory, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] { *memory = allocate_host(bytes); });
}

void release(void*, void* memory, uint64_t bytes) { release_host(memory, bytes); }

// Row-major, as in the checkpoint; quantized weights as reference/quantized.h says.
uint64_t packed_bytes(void*, int32_t dtype, int64_t rows, int64_t columns, int32_t group) {
  const uint64_t elements = static_cast<uint64_t>(rows) * static_cast<uint64_t>(columns);
  if (is_quantized(static_cast<DType>(dtype)))
    return elements + elements / static_cast<uint64_t>(group) * (sizeof(f16) + sizeof(uint8_t));
  return elements * sizeof(bf16);
}

uint64_t kv_block_bytes(void*, int32_t dtype, int32_t kv_heads, int32_t head_dim, int32_t block_size) {
  return KvBlock{static_cast<DType>(dtype), kv_heads, head_dim, block_size}.bytes();
}

int32_t create_context(void* device, void** context, char*, uint32_t) {
  *context = device;
  return 0;
}

void destroy_context(void*) {}

int32_t copy(void*, void* to, const void* from, uint64_t bytes, char*, uint32_t) {
  std::memcpy(to, from, bytes);
  return 0;
}

int32_t synchronize(void*, char*, uint32_t) { return 0; }

int32_t measure(void*, DeviceLimits*, char* error, uint32_t error_size) {
  return guarded(error, error_size,
                 [] { fail("unsupported", "the reference device is a specification; it has no limits to measure"); });
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
          .upload = copy,
          .download = copy,
          .synchronize = synchronize,
          .measure = measure,
          .begin_capture = nullptr,
          .end_capture = nullptr,
          .launch_graph = nullptr,
          .destroy_graph = nullptr,
          .allocate_staging = nullptr,
          .release_staging = nullptr,
          .upload_staged = nullptr};
}

}  // namespace qwen2::reference
