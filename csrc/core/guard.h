// The exception boundary of DeviceApi, both sides of it.
#pragma once

#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

#include "core/error.h"

namespace qwen2 {

// Runs `body`; what it throws becomes status 1 and "code: message".
template <typename Body>
int32_t guarded(char* error, uint32_t error_size, Body body) noexcept {
  try {
    body();
    return 0;
  } catch (const Error& e) {
    std::snprintf(error, error_size, "%s: %s", e.code(), e.what());
  } catch (const std::bad_alloc&) {
    std::snprintf(error, error_size, "out_of_memory: the process has no memory left");
  } catch (const std::exception& e) {
    std::snprintf(error, error_size, "internal: %s", e.what());
  }
  return 1;
}

// The code of a "code: message" text as a literal; an unknown one is `internal`.
const char* split_error(const char* text, const char** message);

// Calls a function of DeviceApi and throws what it reports.
template <typename Function, typename... Arguments>
void call(Function function, Arguments... arguments) {
  char error[1024];
  if (function(arguments..., error, sizeof error) == 0) return;
  const char* message;
  const char* code = split_error(error, &message);
  throw Error(code, message);
}

}  // namespace qwen2
