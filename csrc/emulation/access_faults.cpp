#include "emulation/access_faults.h"

#include <signal.h>

#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <mutex>

namespace qwen2::emulation {

#if defined(__SANITIZE_ADDRESS__)

AccessFaults::AccessFaults() = default;
AccessFaults::~AccessFaults() = default;
const char* AccessFaults::run(const std::function<void()>& work) const {
  work();
  return nullptr;
}

#else

namespace {

thread_local sigjmp_buf* resume_at = nullptr;
thread_local char report[128];
struct sigaction before_us;

// On a stack of its own: the fiber's may be what overflowed.
void on_fault(int signal, siginfo_t* info, void* context) {
  if (resume_at != nullptr) {
    std::snprintf(report, sizeof report, "accesses %p, where no memory is", info->si_addr);
    siglongjmp(*resume_at, 1);
  }
  // Somebody else's: Node has a handler for WebAssembly's traps.
  if (before_us.sa_flags & SA_SIGINFO) return before_us.sa_sigaction(signal, info, context);
  sigaction(signal, &before_us, nullptr);
}

void install_handler() {
  struct sigaction ours {};
  ours.sa_sigaction = on_fault;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &ours, &before_us);
}

thread_local std::byte signal_stack[16 << 10];
thread_local stack_t stack_before{};

}  // namespace

AccessFaults::AccessFaults() {
  static std::once_flag installed;
  std::call_once(installed, install_handler);
  stack_t ours{};
  ours.ss_sp = signal_stack;
  ours.ss_size = sizeof signal_stack;
  sigaltstack(&ours, &stack_before);
}

AccessFaults::~AccessFaults() { sigaltstack(&stack_before, nullptr); }

const char* AccessFaults::run(const std::function<void()>& work) const {
  sigjmp_buf here;
  if (sigsetjmp(here, 0) != 0) {
    resume_at = nullptr;
    sigset_t segv;
    sigemptyset(&segv);
    sigaddset(&segv, SIGSEGV);
    pthread_sigmask(SIG_UNBLOCK, &segv, nullptr);
    return report;
  }
  struct Forget {
    ~Forget() { resume_at = nullptr; }
  } forget_when_done;
  resume_at = &here;
  work();
  return nullptr;
}

#endif

}  // namespace qwen2::emulation
