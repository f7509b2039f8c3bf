// Tensor cores and the loads that feed them: warp operations on the registers of 32 lanes.
#pragma once

#include <cstdint>

#include "emulation/executor.h"

namespace qwen2::emulation {

// Addresses of shared memory, as instructions take them, begin here: the first KiB is the system's, as on Hopper.
constexpr uint32_t shared_base = 1024;
uint32_t shared_address(const void* pointer);

// d = a · b + d for bf16 a[16, 16] and b[16, 8], fp32 d[16, 8] (PTX ISA, mma.m16n8k16). With g = lane / 4 and
// t = 2 · (lane % 4), a lane holds
//   a: (g, t…) (g + 8, t…) (g, t + 8…) (g + 8, t + 8…), two columns a register
//   b: rows t… and t + 8… of column g, two rows a register
//   d: (g, t) (g, t + 1) (g + 8, t) (g + 8, t + 1)
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site);

// `count` (1, 2, 4) 8×8 matrices of 16-bit elements from shared memory; lane 8i + r gives the address of row r of matrix
// i, 16 bytes. A lane receives elements (lane / 4, 2 · (lane % 4) …) of each, of its transpose if `transposed`.
void load_matrix(uint32_t* registers, int count, const void* row, bool transposed, Site site);
// The other way.
void store_matrix(const uint32_t* registers, int count, void* row, bool transposed, Site site);

}  // namespace qwen2::emulation
