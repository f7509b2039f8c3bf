// Remembers calls of operations whose errors come to light after they were launched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/op.h"

namespace qwen2::cuda {

class Calls {
 public:
  // The operation that is launched from here on. Its arguments stay where they are until the next call.
  void begin(const OpInfo& op, const void* args);
  // A number for it; it is remembered from then on.
  int32_t current();
  // While a graph is captured its calls are remembered for good, as it may be launched at any time; the others, until as
  // many later ones have come.
  void set_capturing(bool capturing) { capturing_ = capturing; }
  // "; in rms_norm(x bf16[7, 896], …)", or nothing if it is forgotten.
  std::string describe(int32_t number) const;

 private:
  static constexpr int32_t remembered = 4096;
  static constexpr int32_t first_captured = 1 << 30;

  struct Call {
    int32_t number = -1;
    const OpInfo* op = nullptr;
    std::vector<std::byte> args;
  };

  Call launching_;
  const void* args_ = nullptr;
  bool capturing_ = false;
  int32_t next_ = 0;
  std::vector<Call> recent_;
  std::vector<Call> captured_;
};

}  // namespace qwen2::cuda
