// Barriers of a block, and cp.async: what threads wait for together, and each for itself.
#include <cstring>

#include "emulation/executor.h"
#include "emulation/options.h"

namespace qwen2::emulation {
namespace {

// Counts an arrival; true if it was the last.
bool arrive(Barrier& barrier, uint32_t id, uint32_t count, Site site) {
  const uint32_t expected = count == 0 ? static_cast<uint32_t>(current->block->grid->thread_count()) : count;
  if (barrier.arrived == 0) {
    barrier.expected = expected;
    barrier.first_site = site;
    barrier.first_rank = current->rank;
  } else if (barrier.expected != expected || (count == 0 && !same_place(barrier.first_site, site))) {
    fault("is at barrier %u at %s, while thread %u of its block is at %s: the barrier is divergent", id,
          place_of(site).c_str(), barrier.first_rank, place_of(barrier.first_site).c_str());
  }
  return ++barrier.arrived == barrier.expected;
}

void release(Barrier& barrier) {
  std::vector<Thread*> waiting;
  waiting.swap(barrier.waiting);
  barrier.arrived = 0;
  for (Thread* thread : waiting) make_ready(thread);
}

}  // namespace

void barrier_wait(uint32_t id, uint32_t count, Site site) {
  Barrier& barrier = current->block->barriers.at(id);
  if (arrive(barrier, id, count, site)) {
    release(barrier);
    // Its own turn comes like everybody's: going on at once would hide what the others may do first.
    make_ready(current);
    park(Thread::State::ready, "its turn", site);
    return;
  }
  barrier.waiting.push_back(current);
  park(Thread::State::barrier, "a barrier", site);
}

void barrier_arrive(uint32_t id, uint32_t count, Site site) {
  Barrier& barrier = current->block->barriers.at(id);
  if (arrive(barrier, id, count, site)) release(barrier);
}

namespace {

void land(const AsyncCopy& copy) {
  std::memcpy(copy.to, copy.from, copy.source_bytes);
  std::memset(static_cast<std::byte*>(copy.to) + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
}

}  // namespace

void async_copy(void* to, const void* from, uint32_t bytes, uint32_t source_bytes, Site site) {
  if (!current->block->shared->contains(to, bytes))
    fault("copies to %p at %s, which is not in its block's shared memory", to, place_of(site).c_str());
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || (source_bytes > 0 && reinterpret_cast<uintptr_t>(from) % bytes != 0))
    fault("copies %u bytes at %s between addresses that are not multiples of that", bytes, place_of(site).c_str());
  const AsyncCopy copy{to, from, bytes, source_bytes};
  const bool at_once = options().copies == Copies::immediate ||
                       (options().copies == Copies::random && random_below(2) == 0);
  if (at_once) return land(copy);
  std::memset(to, poison_byte, bytes);
  current->open_copies.push_back(copy);
}

void async_commit() {
  current->copy_groups.push_back(std::move(current->open_copies));
  current->open_copies.clear();
}

void async_wait(uint32_t groups_in_flight, Site site) {
  if (current->copy_groups.size() <= groups_in_flight) return;
  if (options().copies != Copies::immediate) wait_late("asynchronous copies", site);
  while (current->copy_groups.size() > groups_in_flight) {
    for (const AsyncCopy& copy : current->copy_groups.front()) land(copy);
    current->copy_groups.pop_front();
  }
}

}  // namespace qwen2::emulation
