#include "core/error.h"

#include <cstdarg>
#include <cstdio>

namespace qwen2 {

void fail(const char* code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char text[1024];
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Error(code, text);
}

}  // namespace qwen2
