// What a device is, as plain C: every device, in this library or in one loaded at run time, is one such table.
//
// Functions that can fail return 0, or 1 with "code: message" in `error`; no exception crosses this boundary.
#pragma once

#include <cstdint>

#include "core/op.h"

namespace qwen2 {

// Rises with every change of this file, of Tensor, or of the order or arguments of the operations.
constexpr uint32_t device_api_version = 8;

struct DeviceOptions {
  int32_t index;        // which of several devices of the kind
  int32_t threads;      // CPU threads, 0: as many as this process may run on
  const char* variant;  // CPU SIMD level, null: the best that this processor has
};

struct DeviceDescription {
  char name[128];        // such as "AMD EPYC, AVX-512 BF16, 2 threads"
  char variant[32];      // such as "avx512"
  int32_t threads;       // CPU threads in use; 0 where it means nothing
  uint64_t total_bytes;  // memory of the device
  uint64_t free_bytes;   // of it, what can still be allocated
};

struct DeviceLimits {
  double read_bytes_per_second;     // streaming reads of a buffer larger than the caches, all threads
  double bf16_operations_per_second;  // bf16 dot products accumulated in fp32 (a multiply and an add: 2), all threads
  double int8_operations_per_second;  // the same of bytes; 0 where int4 and int8 weights are multiplied as bf16
};

struct DeviceApi {
  uint32_t version;
  uint32_t op_count;
  const Kernel* kernels;  // one an operation, in the order of csrc/ops/ops.def

  int32_t (*open)(const DeviceOptions* options, void** device, char* error, uint32_t error_size);
  void (*close)(void* device);
  void (*describe)(void* device, DeviceDescription* description);

  int32_t (*allocate)(void* device, uint64_t bytes, void** memory, char* error, uint32_t error_size);
  void (*release)(void* device, void* memory, uint64_t bytes);
  // Bytes of a weight [rows, columns] in the layouts that the pack operations of its dtype (bf16, int4, int8) write;
  // `group` is the tensor's.
  uint64_t (*packed_bytes)(void* device, int32_t dtype, int64_t rows, int64_t columns, int32_t group);
  // Bytes of one block of the KV cache of one layer: keys and values of block_size tokens, held as `dtype`.
  uint64_t (*kv_block_bytes)(void* device, int32_t dtype, int32_t kv_heads, int32_t head_dim, int32_t block_size);

  // A context executes one stream's work, called by that stream's thread only.
  int32_t (*create_context)(void* device, void** context, char* error, uint32_t error_size);
  void (*destroy_context)(void* context);
  int32_t (*upload)(void* context, void* to, const void* from, uint64_t bytes, char* error, uint32_t error_size);
  int32_t (*download)(void* context, void* to, const void* from, uint64_t bytes, char* error, uint32_t error_size);
  int32_t (*synchronize)(void* context, char* error, uint32_t error_size);
  int32_t (*measure)(void* context, DeviceLimits* limits, char* error, uint32_t error_size);

  // Null where a graph is replayed operation by operation. Between the first two, kernels record into the graph.
  int32_t (*begin_capture)(void* context, char* error, uint32_t error_size);
  int32_t (*end_capture)(void* context, void** graph, char* error, uint32_t error_size);
  int32_t (*launch_graph)(void* context, void* graph, char* error, uint32_t error_size);
  void (*destroy_graph)(void* device, void* graph);

  // Memory of the host that the device copies from fastest; null where device memory is the host's own.
  int32_t (*allocate_staging)(void* device, uint64_t bytes, void** memory, char* error, uint32_t error_size);
  void (*release_staging)(void* device, void* memory);
  // Returns when the copy is done.
  int32_t (*upload_staged)(void* context, void* to, const void* from, uint64_t bytes, char* error, uint32_t error_size);
};

}  // namespace qwen2
