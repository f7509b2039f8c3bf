#include "emulation/bulk.h"

#include <cstring>
#include <utility>

namespace qwen2::emulation {
namespace {

// What an initialized barrier's memory holds: overwriting it shows.
constexpr uint64_t cookie = 0x6D62617272696572;

MemoryBarrier& barrier_at(uint64_t* barrier, const char* what, Site site) {
  auto& barriers = current->block->memory_barriers;
  const auto found = barriers.find(barrier);
  if (found == barriers.end() || *barrier != cookie)
    fault("%s at %s:%d, where no initialized memory barrier is", what, site.file, site.line);
  return found->second;
}

void complete_if_done(MemoryBarrier& barrier) {
  if (barrier.pending != 0 || barrier.pending_bytes != 0) return;
  ++barrier.completed_phases;
  barrier.pending = barrier.count;
}

void check_bulk(const void* shared, const void* global, uint32_t bytes, Site site) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global) | bytes;
  if (bits % 16 != 0)
    fault("copies %u bytes at %s:%d; addresses and size must be multiples of 16", bytes, site.file, site.line);
  if (!current->block->shared->contains(shared, bytes))
    fault("copies %u bytes at %s:%d, of which not all are in its block's shared memory", bytes, site.file, site.line);
}

}  // namespace

void mbarrier_init(uint64_t* barrier, uint32_t count, Site site) {
  if (!current->block->shared->contains(barrier, sizeof *barrier))
    fault("initializes a memory barrier at %s:%d that is not in its block's shared memory", site.file, site.line);
  *barrier = cookie;
  current->block->memory_barriers[barrier] = {.count = count, .pending = count};
}

void mbarrier_arrive(uint64_t* barrier, Site site) {
  MemoryBarrier& state = barrier_at(barrier, "arrives", site);
  if (state.pending == 0) fault("arrives at %s:%d at a barrier whose phase has all its arrivals", site.file, site.line);
  --state.pending;
  complete_if_done(state);
}

void mbarrier_arrive_expect_bytes(uint64_t* barrier, uint32_t bytes, Site site) {
  barrier_at(barrier, "arrives", site).pending_bytes += bytes;
  mbarrier_arrive(barrier, site);
}

// The hardware tells phases apart by one bit, so a wait for the wrong one may end at once or never.
void mbarrier_wait(uint64_t* barrier, uint32_t parity, Site site) {
  const MemoryBarrier* state = &barrier_at(barrier, "waits", site);
  wait_for("a memory barrier", [state, parity] { return state->completed_phases % 2 != parity; }, site);
}

std::byte* proxy_view(Block& block) {
  if (block.proxy_view.empty()) block.proxy_view.assign(block.shared->bytes(), std::byte{poison_byte});
  return block.proxy_view.data();
}

void load_to_shared(void* to, uint32_t bytes, uint64_t* barrier, std::function<void(std::byte*)> read, Site site) {
  MemoryBarrier* state = &barrier_at(barrier, "copies", site);
  if (!state->fenced)
    fault("copies at %s:%d onto a memory barrier that no fence_proxy_async has made visible to copies", site.file,
          site.line);
  Block* block = current->block;
  std::byte* view = proxy_view(*block) + (static_cast<std::byte*>(to) - block->shared->data());
  std::memset(to, poison_byte, bytes);
  std::memset(view, poison_byte, bytes);
  ++block->loads_in_flight;
  defer([=, read = std::move(read)] {
    read(view);
    std::memcpy(to, view, bytes);
    --block->loads_in_flight;
    state->pending_bytes -= bytes;
    complete_if_done(*state);
  });
}

void bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* barrier, Site site) {
  check_bulk(to, from, bytes, site);
  load_to_shared(to, bytes, barrier, [=](std::byte* at) { std::memcpy(at, from, bytes); }, site);
}

void bulk_store(void* to, const void* from, uint32_t bytes, Site site) {
  check_bulk(from, to, bytes, site);
  Block& block = *current->block;
  const std::byte* view = proxy_view(block) + (static_cast<const std::byte*>(from) - block.shared->data());
  std::vector<std::byte> seen(view, view + bytes);
  current->open_stores.push_back([to, seen = std::move(seen)] { std::memcpy(to, seen.data(), seen.size()); });
}

void bulk_commit() {
  current->store_groups.push_back(std::move(current->open_stores));
  current->open_stores.clear();
}

void bulk_wait(uint32_t groups, Site site) {
  if (current->store_groups.size() <= groups) return;
  wait_late("bulk stores", site);
  while (current->store_groups.size() > groups) {
    for (const auto& store : current->store_groups.front()) store();
    current->store_groups.pop_front();
  }
}

void fence_proxy_async() {
  Block& block = *current->block;
  block.proxy_view.assign(block.shared->data(), block.shared->data() + block.shared->bytes());
  for (auto& [address, barrier] : block.memory_barriers) barrier.fenced = true;
}

}  // namespace qwen2::emulation
