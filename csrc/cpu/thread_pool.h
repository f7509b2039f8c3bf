// The CPU device's threads: one loop at a time, cut into contiguous pieces.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace qwen2::cpu {

class ThreadPool {
 public:
  // `threads` counts the caller of run(), which works too.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(self, begin, end, worker) for pieces of `piece` items (the last may be shorter) that cover [0, items),
  // each once, on any thread, `worker` in [0, threads()). Returns when all are done; the first exception is rethrown.
  using Body = void (*)(void* self, int64_t begin, int64_t end, int worker);
  void run(int64_t items, int64_t piece, Body body, void* self);

 private:
  void stop();
  void worker_main(int worker);
  void work(int worker);
  // The generation, once it is not `seen`: spins briefly, since steps follow each other within microseconds, then sleeps.
  uint32_t await_generation(uint32_t seen);

  std::mutex one_loop_;  // several streams may share the pool

  // The loop being run; written before the generation rises.
  Body body_ = nullptr;
  void* self_ = nullptr;
  int64_t items_ = 0, piece_ = 1;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int> busy_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
  std::atomic<bool> stopping_{false};
  std::mutex error_mutex_;
  std::exception_ptr error_;
  std::vector<std::thread> workers_;
};

}  // namespace qwen2::cpu
