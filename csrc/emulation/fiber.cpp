#include "emulation/fiber.h"

#include <sys/mman.h>

#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#error "the emulation switches stacks in x86-64 assembly; port qwen2_switch_stack to build it elsewhere"
#endif

// Saves the callee-saved registers on the current stack, whose pointer goes to *save, and restores them from `load`.
// 6 ns, where swapcontext, which saves the signal mask, takes 230.
extern "C" void qwen2_switch_stack(void** save, void* load);
asm(R"(
.text
.type qwen2_switch_stack, @function
qwen2_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size qwen2_switch_stack, .-qwen2_switch_stack
)");

namespace qwen2::emulation {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t stack_bytes = 256 << 10;
#else
constexpr size_t stack_bytes = 64 << 10;
#endif
constexpr size_t guard_bytes = 4096;

// The fiber being started: the trampoline has no other argument.
thread_local Fiber* starting = nullptr;

// Stacks that begin a power of two apart share cache sets, which triples the time of a switch.
size_t stagger() {
  static thread_local size_t next = 0;
  return (next++ % 32) * 192;
}

}  // namespace

Fiber::Fiber() {
  void* memory = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, guard_bytes, PROT_NONE);
  stack_ = static_cast<std::byte*>(memory);
}

Fiber::~Fiber() { munmap(stack_, guard_bytes + stack_bytes); }

void Fiber::start(Entry entry, void* argument) {
  entry_ = entry;
  argument_ = argument;
  fake_stack_ = nullptr;
  // The trampoline finds its stack as after a call: 8 bytes short of a multiple of 16.
  auto top = reinterpret_cast<uintptr_t>(stack_ + guard_bytes + stack_bytes - stagger()) & ~uintptr_t{15};
  void** sp = reinterpret_cast<void**>(top);
  *--sp = nullptr;
  *--sp = reinterpret_cast<void*>(&Fiber::trampoline);
  for (int i = 0; i < 6; ++i) *--sp = nullptr;
  own_stack_pointer_ = sp;
}

void Fiber::resume() {
  starting = this;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack;
  __sanitizer_start_switch_fiber(&fake_stack, stack_ + guard_bytes, stack_bytes);
#endif
  qwen2_switch_stack(&resumer_stack_pointer_, own_stack_pointer_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_stack_, resumer_bottom_, resumer_size_);
#endif
  qwen2_switch_stack(&own_stack_pointer_, resumer_stack_pointer_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, &resumer_bottom_, &resumer_size_);
#endif
}

void Fiber::trampoline() {
  Fiber* self = starting;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &self->resumer_bottom_, &self->resumer_size_);
#endif
  self->entry_(self->argument_);
  self->suspend();
  __builtin_unreachable();
}

}  // namespace qwen2::emulation
