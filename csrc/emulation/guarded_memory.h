// Memory between guards: an access beyond it faults, a write into the slack before the guard is found, and everything
// starts as 0xFF bytes, which are NaN in every float type.
#pragma once

#include <cstddef>

namespace qwen2::emulation {

constexpr unsigned char poison_byte = 0xFF;

class GuardedMemory {
 public:
  // `alignment` is a power of two, a page at most.
  GuardedMemory(size_t bytes, size_t alignment);
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  bool contains(const void* address, size_t bytes) const;
  void poison();
  // Takes the memory away and keeps the addresses: an access faults, instead of meeting what is there next.
  void retire();
  // Whether nothing was written between the end of the data and the guard behind it; asked again, only since then.
  bool slack_is_intact();

 private:
  std::byte* mapping_;
  size_t mapping_bytes_;
  std::byte* data_;
  size_t bytes_, slack_;

  void fill_slack();
};

}  // namespace qwen2::emulation
