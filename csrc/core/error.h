// The one error type of the native side. Its code is one of the words of lib/native/errors.ts.
#pragma once

#include <exception>
#include <string>

namespace qwen2 {

class Error : public std::exception {
 public:
  Error(const char* code, std::string message) : code_(code), message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  // A string literal, so that it can cross threads and libraries.
  const char* code() const noexcept { return code_; }

 private:
  const char* code_;
  std::string message_;
};

// Throw an Error with a printf-style message. Out of line: kernels compiled for one instruction set call these instead
// of instantiating std::string code that the linker might hand to the whole program.
[[noreturn]] void fail(const char* code, const char* format, ...) __attribute__((format(printf, 2, 3), cold));

}  // namespace qwen2
