// Turns an access to memory that is not there into a report.
#pragma once

#include <functional>

namespace qwen2::emulation {

// While it lives, run() survives a fault of memory access on its thread. The address sanitizer has better reports of its
// own, so there it does nothing.
class AccessFaults {
 public:
  AccessFaults();
  ~AccessFaults();
  AccessFaults(const AccessFaults&) = delete;
  AccessFaults& operator=(const AccessFaults&) = delete;

  // Returns null, or what happened instead of the rest of `work`.
  const char* run(const std::function<void()>& work) const;
};

}  // namespace qwen2::emulation
