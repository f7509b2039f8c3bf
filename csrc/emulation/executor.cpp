#include "emulation/executor.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "emulation/access_faults.h"
#include "emulation/bulk.h"
#include "emulation/options.h"

namespace qwen2::emulation {

Thread* current = nullptr;

Block::Block() = default;
Block::~Block() = default;

std::string place_of(Site site) {
  const char* slash = std::strrchr(site.file ? site.file : "?", '/');
  return std::string(slash ? slash + 1 : site.file ? site.file : "?") + ":" + std::to_string(site.line);
}

bool same_place(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

namespace {

std::string name_of(const Thread& thread) {
  const uint3 &b = thread.block->index, &t = thread.index;
  char text[128];
  std::snprintf(text, sizeof text, "thread (%u, %u, %u) of block (%u, %u, %u)", t.x, t.y, t.z, b.x, b.y, b.z);
  return text;
}

// The threads that wait for their turn. All of them are on one stack of the host at a time.
class Executor {
 public:
  void run(const std::vector<std::unique_ptr<Grid>>& grids);

  void make_ready(Thread* thread) {
    thread->state = Thread::State::ready;
    ready_.push_back(thread);
  }
  // Before all others, where the order is not random: a warp that goes on while its stacks are in the cache takes a third
  // of the time.
  void make_ready_first(Thread* thread) {
    thread->state = Thread::State::ready;
    ready_.push_front(thread);
  }
  // Parks the thread that runs, until somebody makes it ready.
  void park(Thread::State state, const char* what, Site site) {
    Thread* self = current;
    self->state = state;
    self->waits_for = what;
    self->site = site;
    if (state == Thread::State::late) late_.push_back(self);
    if (state == Thread::State::polling) polling_.push_back(self);
    self->fiber.suspend();
  }
  void defer(std::function<void()> work) { deferred_.push_back(std::move(work)); }
  void note_release() { may_admit_ = true; }
  [[noreturn]] void end_with(std::string report) {
    fault_ = std::move(report);
    current->fiber.suspend();
    __builtin_unreachable();
  }

 private:
  void run_to_end(const std::vector<std::unique_ptr<Grid>>& grids);
  void admit(const std::vector<std::unique_ptr<Grid>>& grids);
  bool may_begin(const Grid& grid) const;
  void begin_block(Grid& grid);
  void finish_thread(Thread& thread);
  void finish_block(Block& block);
  Thread* pick();
  Thread* take(std::deque<Thread*>& list);
  [[noreturn]] void give_up(const std::string& report);
  bool wake_polling();
  bool run_deferred();
  [[noreturn]] void report_deadlock();
  static void thread_main(void* argument);

  std::deque<Thread*> ready_, late_, polling_;
  std::vector<std::function<void()>> deferred_;
  std::list<std::unique_ptr<Block>> resident_;
  std::vector<std::unique_ptr<Block>> spare_blocks_;
  std::optional<std::string> fault_;
  bool may_admit_ = false;  // whether anything has changed since the last try
};

Executor& executor() {
  static Executor executor;
  return executor;
}

void Executor::run(const std::vector<std::unique_ptr<Grid>>& grids) {
  Grid* previous = nullptr;
  for (const auto& grid : grids) {
    grid->previous = previous;
    grid->order.resize(grid->block_count());
    std::iota(grid->order.begin(), grid->order.end(), uint64_t{0});
    if (options().order == Order::reverse) std::reverse(grid->order.begin(), grid->order.end());
    if (options().order == Order::random)
      for (size_t i = grid->order.size(); i > 1; --i) std::swap(grid->order[i - 1], grid->order[random_below(i)]);
    previous = grid.get();
  }
  const AccessFaults catch_faults;
  const char* access = catch_faults.run([&] { run_to_end(grids); });
  if (access == nullptr) return;
  const Thread* thread = std::exchange(current, nullptr);
  give_up((thread ? name_of(*thread) : "an asynchronous copy") + " " + access);
}

void Executor::run_to_end(const std::vector<std::unique_ptr<Grid>>& grids) {
  may_admit_ = true;
  for (;;) {
    if (std::exchange(may_admit_, false)) admit(grids);
    if (resident_.empty()) return;
    Thread* thread = pick();
    if (thread == nullptr) report_deadlock();
    current = thread;
    thread->fiber.resume();
    current = nullptr;
    if (fault_) give_up(*std::exchange(fault_, std::nullopt));
    if (thread->state == Thread::State::finished) finish_thread(*thread);
  }
}

// As many blocks are resident as the device has multiprocessors. A dependent grid may begin early, and does whenever
// there is room: what it reads too soon is then not there yet.
void Executor::admit(const std::vector<std::unique_ptr<Grid>>& grids) {
  for (const auto& grid : grids) {
    while (grid->begun < grid->block_count() && may_begin(*grid)) {
      // One more place for a dependent grid, or it would never overlap with a large one.
      const size_t places = static_cast<size_t>(options().multiprocessors) + (grid->dependent ? 1 : 0);
      if (resident_.size() >= places) return;
      begin_block(*grid);
    }
    if (!grid->complete() && grid->begun < grid->block_count()) return;
  }
}

bool Executor::may_begin(const Grid& grid) const {
  const Grid* before = grid.previous;
  if (before == nullptr || before->complete()) return true;
  return grid.dependent && before->released_dependents + before->finished >= before->block_count() &&
         (before->previous == nullptr || before->previous->complete());
}

void Executor::begin_block(Grid& grid) {
  std::unique_ptr<Block> block;
  if (spare_blocks_.empty()) {
    block = std::make_unique<Block>();
  } else {
    block = std::move(spare_blocks_.back());
    spare_blocks_.pop_back();
  }
  const uint64_t flat = grid.order[grid.begun++];
  block->grid = &grid;
  block->index = {static_cast<unsigned>(flat % grid.blocks.x), static_cast<unsigned>(flat / grid.blocks.x % grid.blocks.y),
                  static_cast<unsigned>(flat / grid.blocks.x / grid.blocks.y)};
  block->live = grid.thread_count();
  block->released_dependents = false;
  block->memory_barriers.clear();
  block->proxy_view.clear();
  block->loads_in_flight = 0;
  block->warpgroups.clear();
  block->barriers.assign(16, {});
  block->warps.assign((block->live + 31) / 32, {});
  if (!block->shared || block->shared->bytes() != grid.shared_bytes)
    block->shared = std::make_unique<GuardedMemory>(grid.shared_bytes, 1024);
  block->shared->poison();
  while (block->threads.size() < block->live) block->threads.push_back(std::make_unique<Thread>());
  for (uint32_t i = 0; i < block->live; ++i) {
    const uint32_t rank = options().order == Order::reverse ? static_cast<uint32_t>(block->live) - 1 - i : i;
    Thread& thread = *block->threads[rank];
    thread.block = block.get();
    thread.rank = rank;
    thread.index = {rank % grid.threads.x, rank / grid.threads.x % grid.threads.y,
                    rank / grid.threads.x / grid.threads.y};
    thread.open_copies.clear();
    thread.copy_groups.clear();
    thread.open_stores.clear();
    thread.store_groups.clear();
    thread.products_in_flight = 0;
    thread.fiber.start(thread_main, &thread);
    make_ready(&thread);
  }
  resident_.push_back(std::move(block));
}

void Executor::thread_main(void* argument) {
  Thread& thread = *static_cast<Thread*>(argument);
  thread.block->grid->body();
  if (!thread.open_copies.empty() || !thread.copy_groups.empty() || !thread.open_stores.empty() ||
      !thread.store_groups.empty())
    executor().end_with(name_of(thread) + " ends while asynchronous copies that it issued are in flight");
  if (thread.products_in_flight > 0)
    executor().end_with(name_of(thread) + " ends while products of its warpgroup are in flight");
  thread.state = Thread::State::finished;
}

void Executor::finish_thread(Thread& thread) {
  Block& block = *thread.block;
  for (const Rendezvous& meeting : block.warps[thread.rank / 32])
    if (meeting.mask >> thread.lane() & 1)
      give_up(name_of(thread) + " ends, and lanes of its warp wait for it in " + meeting.name + " at " +
              place_of(meeting.site));
  if (--block.live == 0) finish_block(block);
}

void Executor::finish_block(Block& block) {
  if (!block.shared->slack_is_intact())
    give_up("shared memory was written beyond the " + std::to_string(block.shared->bytes()) + " bytes of the launch");
  if (block.loads_in_flight > 0) give_up("a block ends while copies to its shared memory are in flight");
  for (const Barrier& barrier : block.barriers)
    if (barrier.arrived != 0)
      give_up("a block ends with " + std::to_string(barrier.arrived) + " arrivals at a barrier, first at " +
              place_of(barrier.first_site));
  ++block.grid->finished;
  may_admit_ = true;
  if (block.released_dependents) --block.grid->released_dependents;
  const auto at = std::find_if(resident_.begin(), resident_.end(), [&](const auto& b) { return b.get() == &block; });
  spare_blocks_.push_back(std::move(*at));
  resident_.erase(at);
}

// The next thread: one that is ready; else something that was put off; else one that waits to be last.
Thread* Executor::pick() {
  for (;;) {
    if (options().copies == Copies::random && !deferred_.empty() && random_below(4) == 0) run_deferred();
    if (!ready_.empty()) return take(ready_);
    if (run_deferred() || wake_polling()) continue;
    return late_.empty() ? nullptr : take(late_);
  }
}

// First in, first out, or any.
Thread* Executor::take(std::deque<Thread*>& list) {
  if (options().order == Order::random) std::swap(list[random_below(list.size())], list.front());
  Thread* thread = list.front();
  list.pop_front();
  thread->state = Thread::State::ready;
  return thread;
}

bool Executor::wake_polling() {
  bool woken = false;
  for (size_t i = 0; i < polling_.size();) {
    if (polling_[i]->condition()) {
      Thread* thread = polling_[i];
      polling_.erase(polling_.begin() + static_cast<std::ptrdiff_t>(i));
      make_ready(thread);
      woken = true;
    } else {
      ++i;
    }
  }
  return woken;
}

bool Executor::run_deferred() {
  if (deferred_.empty()) return false;
  const size_t at = options().order == Order::random ? random_below(deferred_.size()) : 0;
  const std::function<void()> work = std::move(deferred_[at]);
  deferred_.erase(deferred_.begin() + static_cast<std::ptrdiff_t>(at));
  work();
  return true;
}

void Executor::report_deadlock() {
  std::string report = "deadlock: no thread can run";
  int listed = 0;
  for (const auto& block : resident_)
    for (const auto& thread : block->threads) {
      if (thread->block != block.get() || thread->state == Thread::State::finished || listed == 8) continue;
      report += "; " + name_of(*thread) + " waits for " + thread->waits_for + " at " + place_of(thread->site);
      ++listed;
    }
  give_up(report);
}

void Executor::give_up(const std::string& report) {
  ready_.clear();
  late_.clear();
  polling_.clear();
  deferred_.clear();
  resident_.clear();
  throw Fault(report);
}

}  // namespace

void fault(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (current == nullptr) throw Fault(text);
  executor().end_with(name_of(*current) + " " + text);
}

void warp_operation(const char* name, uint32_t mask, void* operand, WarpCompute compute, Site site) {
  Thread& self = *current;
  Block& block = *self.block;
  auto& meetings = block.warps[self.rank / 32];
  const uint32_t own = 1u << self.lane();
  if ((mask & own) == 0) fault("calls %s at %s with a mask, %08x, that leaves itself out", name, place_of(site).c_str(), mask);
  auto meeting = std::find_if(meetings.begin(), meetings.end(), [&](const auto& m) { return (m.mask & mask) != 0; });
  if (meeting == meetings.end()) {
    const uint32_t base = self.rank / 32 * 32;
    for (uint32_t lane = 0; lane < 32; ++lane)
      if ((mask >> lane & 1) && (base + lane >= block.grid->thread_count() ||
                                 block.threads[base + lane]->state == Thread::State::finished))
        fault("calls %s at %s with lane %u, which has ended", name, place_of(site).c_str(), lane);
    meetings.push_back({name, site, mask, 0});
    meeting = meetings.end() - 1;
  }
  if (meeting->mask != mask || meeting->name != name || !same_place(meeting->site, site))
    fault("is in %s at %s with mask %08x, while lanes of its warp are in %s at %s with mask %08x", name,
          place_of(site).c_str(), mask, meeting->name, place_of(meeting->site).c_str(), meeting->mask);
  self.operand = operand;
  meeting->arrived |= own;
  if (meeting->arrived != mask) {
    executor().park(Thread::State::warp, name, site);
    return;
  }
  meetings.erase(meeting);
  void* operands[32] = {};
  Thread* lanes[32] = {};
  for (uint32_t lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) {
      lanes[lane] = block.threads[self.rank / 32 * 32 + lane].get();
      operands[lane] = lanes[lane]->operand;
    }
  compute(operands, mask);
  for (int lane = 31; lane >= 0; --lane)
    if (lanes[lane] != nullptr && lanes[lane] != &self) executor().make_ready_first(lanes[lane]);
}

void park(Thread::State state, const char* what, Site site) { executor().park(state, what, site); }
void make_ready(Thread* thread) { executor().make_ready(thread); }

void wait_late(const char* what, Site site) { executor().park(Thread::State::late, what, site); }

void wait_for(const char* what, std::function<bool()> condition, Site site) {
  if (condition()) return;
  current->condition = std::move(condition);
  executor().park(Thread::State::polling, what, site);
}

void defer(std::function<void()> work) {
  if (options().copies == Copies::immediate) return work();
  executor().defer(std::move(work));
}

void release_dependents() {
  Block& block = *current->block;
  if (block.released_dependents) return;
  block.released_dependents = true;
  ++block.grid->released_dependents;
  executor().note_release();
}

void wait_for_previous_grid(Site site) {
  const Grid* previous = current->block->grid->previous;
  if (previous == nullptr) return;
  wait_for("the grid before its own", [previous] { return previous->complete(); }, site);
}

void run_grids(const std::vector<std::unique_ptr<Grid>>& grids) { executor().run(grids); }

}  // namespace qwen2::emulation
