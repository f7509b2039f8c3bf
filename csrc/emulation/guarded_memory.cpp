#include "emulation/guarded_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace qwen2::emulation {
namespace {
constexpr size_t page = 4096;
constexpr auto slack_byte = std::byte{0xDB};

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }
}  // namespace

GuardedMemory::GuardedMemory(size_t bytes, size_t alignment) : bytes_(bytes) {
  const size_t aligned = round_up(bytes, alignment), body = round_up(std::max<size_t>(aligned, 1), page);
  slack_ = aligned - bytes;
  mapping_bytes_ = body + 2 * page;
  void* memory = mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<std::byte*>(memory);
  mprotect(mapping_, page, PROT_NONE);
  mprotect(mapping_ + page + body, page, PROT_NONE);
  // Pushed against the guard behind, as far as its alignment lets it.
  data_ = mapping_ + page + body - aligned;
  poison();
}

GuardedMemory::~GuardedMemory() { munmap(mapping_, mapping_bytes_); }

bool GuardedMemory::contains(const void* address, size_t bytes) const {
  const auto* at = static_cast<const std::byte*>(address);
  return at >= data_ && at + bytes <= data_ + bytes_;
}

void GuardedMemory::poison() {
  std::memset(data_, poison_byte, bytes_);
  fill_slack();
}

void GuardedMemory::retire() {
  madvise(mapping_, mapping_bytes_, MADV_DONTNEED);
  mprotect(mapping_, mapping_bytes_, PROT_NONE);
}

void GuardedMemory::fill_slack() { std::memset(data_ + bytes_, static_cast<int>(slack_byte), slack_); }

bool GuardedMemory::slack_is_intact() {
  if (std::all_of(data_ + bytes_, data_ + bytes_ + slack_, [](std::byte b) { return b == slack_byte; })) return true;
  fill_slack();
  return false;
}

}  // namespace qwen2::emulation
