#include "core/host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "core/error.h"

namespace qwen2 {
namespace {

constexpr uint64_t huge_page = 2u << 20;

#if defined(__SANITIZE_ADDRESS__)

// The sanitizer's own allocator: it notices an access beyond the last byte, which a mapping hides.
void* obtain(uint64_t bytes) {
  void* memory = nullptr;
  return posix_memalign(&memory, 4096, bytes) == 0 ? memory : nullptr;
}

void give_back(void* memory, uint64_t) { std::free(memory); }

#else

uint64_t mapped_bytes(uint64_t bytes) {
  const uint64_t unit = bytes >= huge_page ? huge_page : 4096;
  return (std::max<uint64_t>(bytes, 1) + unit - 1) / unit * unit;
}

void* obtain(uint64_t bytes) {
  const uint64_t length = mapped_bytes(bytes);
  void* memory = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  if (length >= huge_page) madvise(memory, length, MADV_HUGEPAGE);
  return memory;
}

void give_back(void* memory, uint64_t bytes) { munmap(memory, mapped_bytes(bytes)); }

#endif

bool poisoning() {
  static const bool on = [] {
    const char* value = std::getenv("QWEN2_POISON");
    return value != nullptr && std::strcmp(value, "1") == 0;
  }();
  return on;
}

// The first number in a file, or `otherwise`.
uint64_t number_in(const char* path, const char* format, uint64_t otherwise) {
  std::FILE* file = std::fopen(path, "r");
  if (file == nullptr) return otherwise;
  char line[256];
  unsigned long long value = 0;
  bool found = false;
  while (!found && std::fgets(line, sizeof line, file)) found = std::sscanf(line, format, &value) == 1;
  std::fclose(file);
  return found ? value : otherwise;
}

}  // namespace

void* allocate_host(uint64_t bytes) {
  // Small pieces are not worth reading the system's figures for.
  const uint64_t available = bytes < huge_page ? bytes : free_host_bytes();
  if (bytes > available) {
    fail("out_of_memory",
         "%.2f GB of memory were asked for and %.2f GB are free; use a smaller model, fewer or shorter sequences, or "
         "close other programs",
         static_cast<double>(bytes) / 1e9, static_cast<double>(available) / 1e9);
  }
  void* memory = obtain(bytes);
  if (memory == nullptr)
    fail("out_of_memory", "the system refused %.2f GB of memory", static_cast<double>(bytes) / 1e9);
  if (poisoning()) std::memset(memory, 0xFF, bytes);
  return memory;
}

void release_host(void* memory, uint64_t bytes) { give_back(memory, bytes); }

uint64_t total_host_bytes() {
  const uint64_t machine =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return std::min(machine, number_in("/sys/fs/cgroup/memory.max", "%llu", std::numeric_limits<uint64_t>::max()));
}

uint64_t free_host_bytes() {
  const uint64_t machine = number_in("/proc/meminfo", "MemAvailable: %llu kB", total_host_bytes() / 1024) * 1024;
  const uint64_t limit = number_in("/sys/fs/cgroup/memory.max", "%llu", 0);
  if (limit == 0) return machine;
  const uint64_t used = number_in("/sys/fs/cgroup/memory.current", "%llu", 0);
  const uint64_t reclaimable = number_in("/sys/fs/cgroup/memory.stat", "inactive_file %llu", 0);
  const uint64_t held = used > reclaimable ? used - reclaimable : 0;
  return std::min(machine, limit > held ? limit - held : 0);
}

}  // namespace qwen2
