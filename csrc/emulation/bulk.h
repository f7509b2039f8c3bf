// Hopper's asynchronous proxy: memory barriers in shared memory, and copies of a block of bytes that complete on them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "emulation/executor.h"

namespace qwen2::emulation {

// What the 64 bits of an mbarrier stand for. The phase completes when all arrivals and bytes that it expects are there.
struct MemoryBarrier {
  uint32_t count = 0;            // arrivals of a phase
  uint32_t pending = 0;          // of this phase, still to come
  int64_t pending_bytes = 0;     // still to come, less those that came early
  uint32_t completed_phases = 0;
  bool fenced = false;  // since it was initialized: copies may use it
};

void mbarrier_init(uint64_t* barrier, uint32_t count, Site site);
void mbarrier_arrive(uint64_t* barrier, Site site);
// An arrival that also makes the phase expect so many bytes of copies.
void mbarrier_arrive_expect_bytes(uint64_t* barrier, uint32_t bytes, Site site);
// Waits until the phase of this parity has completed: 0 for the first, 1 for the second, and so on.
void mbarrier_wait(uint64_t* barrier, uint32_t parity, Site site);

// What every copy to shared memory is made of: `bytes` of it are poison until `read` gives them, some time, and they count
// on the barrier. Threads and the asynchronous proxy see them alike.
void load_to_shared(void* to, uint32_t bytes, uint64_t* barrier, std::function<void(std::byte*)> read, Site site);
// Shared memory as the asynchronous proxy sees it: as of the last proxy fence, and what copies brought.
std::byte* proxy_view(Block& block);

// Global to shared memory; the bytes count on the barrier. Both addresses and the size are multiples of 16.
void bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* barrier, Site site);
// Shared to global memory, of what the asynchronous proxy sees: the shared memory of the last proxy fence.
void bulk_store(void* to, const void* from, uint32_t bytes, Site site);
void bulk_commit();
// Waits until at most `groups` of this thread's stores, the latest, are in flight.
void bulk_wait(uint32_t groups, Site site);
// Makes what this block wrote to its shared memory, and its memory barriers, visible to the asynchronous proxy.
void fence_proxy_async();

}  // namespace qwen2::emulation
