// Coroutines with stacks of their own: one runs each emulated CUDA thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qwen2::emulation {

class Fiber {
 public:
  using Entry = void (*)(void* argument);

  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls entry(argument) on an empty stack. What an unfinished run left on it is forgotten.
  void start(Entry entry, void* argument);
  // Runs the fiber until it suspends or its entry returns.
  void resume();
  // Called on the fiber's stack: back to whoever resumed it.
  void suspend();

 private:
  static void trampoline();

  std::byte* stack_;
  void* own_stack_pointer_ = nullptr;
  void* resumer_stack_pointer_ = nullptr;
  Entry entry_ = nullptr;
  void* argument_ = nullptr;
  // For the address sanitizer, which must know which stack is in use.
  void* fake_stack_ = nullptr;
  const void* resumer_bottom_ = nullptr;
  size_t resumer_size_ = 0;
};

}  // namespace qwen2::emulation
