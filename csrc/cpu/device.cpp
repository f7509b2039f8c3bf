#include "cpu/device.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "core/guard.h"
#include "core/host_memory.h"
#include "cpu/kv_cache.h"
#include "cpu/limits.h"
#include "cpu/quantized.h"

namespace qwen2::cpu {
namespace {

struct CpuDevice {
  Simd level;
  ThreadPool pool;
};

struct StreamContext : Context {
  explicit StreamContext(CpuDevice& device) : Context(device.pool), level(device.level) {}
  Simd level;
};

int allowed_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

template <Simd level>
int32_t open(const DeviceOptions* options, void** device, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] {
    if (options->index != 0) fail("device_unavailable", "there is one cpu device; use 'cpu'");
    if (!supported(level)) fail("device_unavailable", "this processor has no %s", name_of(level));
    if (options->threads < 0 || options->threads > 1024)
      fail("invalid_argument", "threads must be between 1 and 1024, it is %d", options->threads);
    const int threads = options->threads > 0 ? options->threads : allowed_threads();
    *device = new CpuDevice{level, ThreadPool(threads)};
  });
}

void close(void* device) { delete static_cast<CpuDevice*>(device); }

void describe(void* handle, DeviceDescription* description) {
  const CpuDevice& device = *static_cast<CpuDevice*>(handle);
  const char* level = device.level == Simd::avx512 ? "AVX-512 BF16" : device.level == Simd::avx2 ? "AVX2" : "no SIMD";
  description->threads = device.pool.threads();
  std::snprintf(description->name, sizeof description->name, "%s, %s, %d thread%s", processor_name().c_str(), level,
                description->threads, description->threads == 1 ? "" : "s");
  std::snprintf(description->variant, sizeof description->variant, "%s", name_of(device.level));
  description->total_bytes = total_host_bytes();
  description->free_bytes = free_host_bytes();
}

int32_t allocate(void*, uint64_t bytes, void** memory, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] { *memory = allocate_host(bytes); });
}

void release(void*, void* memory, uint64_t bytes) { release_host(memory, bytes); }

uint64_t round_up(int64_t value, int64_t unit) { return static_cast<uint64_t>((value + unit - 1) / unit * unit); }

// Panels of 64 rows of column pairs (cpu/kernel.h).
uint64_t packed_bytes(void*, int32_t dtype, int64_t rows, int64_t columns, int32_t group) {
  if (is_quantized(static_cast<DType>(dtype))) return quantized_bytes(static_cast<DType>(dtype), rows, columns, group);
  return round_up(rows, 64) * round_up(columns, 2) * sizeof(bf16);
}

uint64_t kv_block_bytes(void*, int32_t dtype, int32_t kv_heads, int32_t head_dim, int32_t block_size) {
  const KvBlock block{kv_heads, head_dim, block_size};
  return kv_bytes(static_cast<DType>(dtype), block.elements(), block.scales());
}

int32_t create_context(void* device, void** context, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] { *context = new StreamContext(*static_cast<CpuDevice*>(device)); });
}

void destroy_context(void* context) { delete static_cast<StreamContext*>(context); }

int32_t copy(void*, void* to, const void* from, uint64_t bytes, char*, uint32_t) {
  std::memcpy(to, from, bytes);
  return 0;
}

int32_t synchronize(void*, char*, uint32_t) { return 0; }

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The best of `rounds`: a limit is what the machine does when nothing disturbs it.
template <typename Round>
double best_rate(int rounds, Round round) {
  double best = 0;
  for (int i = 0; i < rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const double amount = round();
    best = std::max(best, amount / seconds_since(start));
  }
  return best;
}

void measure_limits(StreamContext& context, DeviceLimits* limits) {
  const auto read_all = context.level == Simd::avx512 ? avx512::read_all
                        : context.level == Simd::avx2 ? avx2::read_all
                                                      : scalar::read_all;
  const auto dot_chains = context.level == Simd::avx512 ? avx512::dot_chains
                          : context.level == Simd::avx2 ? avx2::dot_chains
                                                        : scalar::dot_chains;
  const auto byte_chains = context.level == Simd::avx512 ? avx512::byte_chains
                           : context.level == Simd::avx2 ? avx2::byte_chains
                                                         : scalar::byte_chains;
  constexpr int64_t piece = 1 << 20, pieces = 128;  // 512 MiB of floats: larger than any cache
  const uint64_t bytes = pieces * piece * sizeof(float);
  const std::unique_ptr<float, void (*)(float*)> data(static_cast<float*>(allocate_host(bytes)),
                                                      [](float* p) { release_host(p, pieces * piece * sizeof(float)); });
  std::memset(data.get(), 0, bytes);
  struct Work {
    const float* data;
    decltype(read_all) read;
    double (*dot)(int64_t steps, float* sink);
    std::atomic<int64_t> operations{0};
    volatile float sink = 0;
  } work{data.get(), read_all, nullptr};
  const auto read_pieces = [](void* self, int64_t begin, int64_t end, int) {
    Work& w = *static_cast<Work*>(self);
    w.sink = w.read(w.data + begin * piece, (end - begin) * piece);
  };
  const auto dot_piece = [](void* self, int64_t, int64_t, int) {
    Work& w = *static_cast<Work*>(self);
    float sink;
    w.operations += static_cast<int64_t>(w.dot(1 << 20, &sink));
    w.sink = sink;
  };
  limits->read_bytes_per_second = best_rate(8, [&] {
    context.pool().run(pieces, pieces / context.threads() / 4 + 1, read_pieces, &work);
    return static_cast<double>(bytes);
  });
  const auto best_operations = [&](decltype(work.dot) chains) {
    work.dot = chains;
    return best_rate(5, [&] {
      work.operations = 0;
      context.pool().run(context.threads() * 4, 1, dot_piece, &work);
      return static_cast<double>(work.operations.load());
    });
  };
  limits->bf16_operations_per_second = best_operations(dot_chains);
  limits->int8_operations_per_second = best_operations(byte_chains);
}

int32_t measure(void* context, DeviceLimits* limits, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] { measure_limits(*static_cast<StreamContext*>(context), limits); });
}

}  // namespace

const char* name_of(Simd level) {
  return level == Simd::avx512 ? "avx512" : level == Simd::avx2 ? "avx2" : "scalar";
}

bool supported(Simd level) {
#if defined(__x86_64__)
  if (level == Simd::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (level == Simd::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
#endif
  return level == Simd::scalar;
}

Simd best_level() {
  if (supported(Simd::avx512)) return Simd::avx512;
  return supported(Simd::avx2) ? Simd::avx2 : Simd::scalar;
}

DeviceApi device_api(Simd level, std::span<const Kernel> kernels) {
  const auto open_level =
      level == Simd::avx512 ? open<Simd::avx512> : level == Simd::avx2 ? open<Simd::avx2> : open<Simd::scalar>;
  return {.version = device_api_version,
          .op_count = static_cast<uint32_t>(kernels.size()),
          .kernels = kernels.data(),
          .open = open_level,
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

}  // namespace qwen2::cpu
