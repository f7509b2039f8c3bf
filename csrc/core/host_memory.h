// Host memory for devices whose memory is the host's.
#pragma once

#include <cstdint>

namespace qwen2 {

// Page-aligned memory, in huge pages where it is large. Throws out_of_memory if the machine (or the control group that
// this process runs in) has not that much left. With QWEN2_POISON=1 in the environment it starts as 0xFF bytes, which
// are NaN in every float type and −1 in integers.
void* allocate_host(uint64_t bytes);
void release_host(void* memory, uint64_t bytes);

uint64_t total_host_bytes();
// What can be allocated without driving the machine out of memory.
uint64_t free_host_bytes();

}  // namespace qwen2
