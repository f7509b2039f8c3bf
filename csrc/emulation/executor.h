// The execution model: threads in warps in blocks in grids, on one thread of the host.
//
// Every CUDA thread is a fiber. It runs until it must wait; who runs next is the schedule's choice, as adversarial as
// options.h says. An operation of a whole warp is done by the last lane that arrives, for all.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulation/fiber.h"
#include "emulation/guarded_memory.h"
#include "emulation/include/vector_types.h"

namespace qwen2::emulation {

// A place in a kernel's source.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};
bool same_place(Site a, Site b);
std::string place_of(Site site);  // "rope.cu:12"

// What a kernel did wrong.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// One launch of a kernel.
struct Grid {
  std::function<void()> body;  // the kernel with its arguments
  dim3 blocks, threads;
  size_t shared_bytes = 0;
  bool dependent = false;  // may begin before the grid in front of it ends (programmatic dependent launch)

  uint64_t block_count() const { return uint64_t{blocks.x} * blocks.y * blocks.z; }
  uint64_t thread_count() const { return uint64_t{threads.x} * threads.y * threads.z; }

  // While it runs.
  std::vector<uint64_t> order;  // of its blocks
  uint64_t begun = 0, finished = 0, released_dependents = 0;
  Grid* previous = nullptr;
  bool complete() const { return finished == block_count(); }
};

struct AsyncCopy {
  void* to;
  const void* from;
  uint32_t bytes, source_bytes;  // what the source is short of is zeros
};

struct Block;
struct MemoryBarrier;
struct Warpgroup;

struct Thread {
  enum class State { ready, barrier, warp, late, polling, finished };

  Fiber fiber;
  Block* block = nullptr;
  uint3 index{};
  uint32_t rank = 0;  // in the block
  State state = State::finished;
  Site site{};
  const char* waits_for = "";
  void* operand = nullptr;             // of the warp's operation
  std::function<bool()> condition;     // of a poll
  std::vector<AsyncCopy> open_copies;  // issued, not committed
  std::deque<std::vector<AsyncCopy>> copy_groups;
  std::vector<std::function<void()>> open_stores;  // the same of bulk stores
  std::deque<std::vector<std::function<void()>>> store_groups;
  size_t products_in_flight = 0;  // of its warpgroup

  uint32_t lane() const { return rank % 32; }
};

// An operation that lanes of a warp do together, while some of them are still to come.
struct Rendezvous {
  const char* name;
  Site site;
  uint32_t mask, arrived;
};

struct Barrier {
  uint32_t arrived = 0, expected = 0;
  Site first_site{};
  uint32_t first_rank = 0;
  std::vector<Thread*> waiting;
};

struct Block {
  Grid* grid = nullptr;
  uint3 index{};
  uint64_t live = 0;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<std::vector<Rendezvous>> warps;
  std::vector<Barrier> barriers;
  std::unique_ptr<GuardedMemory> shared;
  std::map<const void*, MemoryBarrier> memory_barriers;
  std::vector<std::byte> proxy_view;  // shared memory as the asynchronous proxy sees it; empty: all poison
  uint32_t loads_in_flight = 0;       // of the asynchronous proxy to shared memory
  std::map<uint32_t, std::shared_ptr<Warpgroup>> warpgroups;
  bool released_dependents = false;

  Block();
  ~Block();
};

// The thread of the emulated device that runs now. Null outside kernels.
extern Thread* current;

// Ends the kernel with a report of what is wrong, which the next synchronization gives.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

// What every warp operation is made of: waits until all lanes of `mask` are here, then `compute` is called once with
// their operands by lane.
using WarpCompute = void (*)(void* const (&operands)[32], uint32_t mask);
void warp_operation(const char* name, uint32_t mask, void* operand, WarpCompute compute, Site site);

// Waits for `count` threads of the block (0: all of them) at barrier `id`, of 16.
void barrier_wait(uint32_t id, uint32_t count, Site site);
// Counts towards a barrier without waiting.
void barrier_arrive(uint32_t id, uint32_t count, Site site);

// Parks the thread that runs, until somebody makes it ready.
void park(Thread::State state, const char* what, Site site);
void make_ready(Thread* thread);
// Waits until nothing else can run: what may happen as late as that, does.
void wait_late(const char* what, Site site);
// Waits for a condition that other threads make true.
void wait_for(const char* what, std::function<bool()> condition, Site site);

// Something that the hardware does by itself, some time: late, at once or at random, as copies are.
void defer(std::function<void()> work);

void async_copy(void* to, const void* from, uint32_t bytes, uint32_t source_bytes, Site site);
void async_commit();
void async_wait(uint32_t groups_in_flight, Site site);

// Programmatic dependent launch.
void release_dependents();
void wait_for_previous_grid(Site site);

// Runs launches of one stream to their end, in order but for dependent ones. Throws Fault.
void run_grids(const std::vector<std::unique_ptr<Grid>>& grids);

}  // namespace qwen2::emulation
