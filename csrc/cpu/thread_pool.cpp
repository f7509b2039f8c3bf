#include "cpu/thread_pool.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace qwen2::cpu {
namespace {

// About 30 µs: longer than the gap between two operations of a step, shorter than what a busy neighbour would notice.
constexpr int spins = 1000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  workers_.reserve(static_cast<size_t>(threads));
  try {
    for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { worker_main(worker); });
  } catch (const std::system_error& e) {
    const size_t started = workers_.size() + 1;
    stop();
    fail("out_of_memory", "the system refused thread %zu of %d: %s; use fewer threads", started + 1, threads, e.what());
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stopping_ = true;
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t items, int64_t piece, Body body, void* self) {
  if (items <= 0) return;
  if (workers_.empty() || items <= piece) {
    for (int64_t begin = 0; begin < items; begin += piece) body(self, begin, std::min(begin + piece, items), 0);
    return;
  }
  std::lock_guard lock(one_loop_);
  body_ = body;
  self_ = self;
  items_ = items;
  piece_ = piece;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  work(0);
  for (int spin = 0; busy_.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < spins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::worker_main(int worker) {
  uint32_t seen = 0;
  for (;;) {
    seen = await_generation(seen);
    if (stopping_) return;
    work(worker);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

void ThreadPool::work(int worker) {
  try {
    for (;;) {
      const int64_t begin = next_.fetch_add(piece_, std::memory_order_relaxed);
      if (begin >= items_) return;
      body_(self_, begin, std::min(begin + piece_, items_), worker);
    }
  } catch (...) {
    std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

uint32_t ThreadPool::await_generation(uint32_t seen) {
  for (int spin = 0; spin < spins; ++spin) {
    const uint32_t now = generation_.load(std::memory_order_acquire);
    if (now != seen) return now;
    pause();
  }
  generation_.wait(seen, std::memory_order_acquire);
  return generation_.load(std::memory_order_acquire);
}

}  // namespace qwen2::cpu
