#include "core/guard.h"

namespace qwen2 {

const char* split_error(const char* text, const char** message) {
  static constexpr const char* codes[] = {"invalid_argument", "unsupported", "out_of_memory", "io_error",
                                          "device_unavailable", "internal"};
  for (const char* code : codes) {
    const size_t length = std::strlen(code);
    if (std::strncmp(text, code, length) == 0 && std::strncmp(text + length, ": ", 2) == 0) {
      *message = text + length + 2;
      return code;
    }
  }
  *message = text;
  return "internal";
}

}  // namespace qwen2
