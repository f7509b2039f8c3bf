// wgmma: products of a warpgroup, which run by themselves between their issue and the wait for them.
//
// Meanwhile accumulators are NaN in their registers, and operands must not change: what they were when the first of the
// four warps issued the product is what is multiplied, and they are held against it when the first warp has waited.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emulation/executor.h"

namespace qwen2::emulation {

// Orders accesses of these registers before products that use them: none may be touched in between.
void wgmma_fence(void* registers, size_t bytes, Site site);
// d[64, columns] = a[64, 16] · b[columns, 16]ᵀ, + d if `accumulate`; a lane holds columns / 2 floats of d.
void wgmma(float* d, int columns, uint64_t a, uint64_t b, bool accumulate, Site site);
void wgmma_commit_group(Site site);
// Waits until at most `groups`, the latest, are in flight. Sums land in the registers that are named.
void wgmma_wait_group(int groups, void* registers, size_t bytes, Site site);

}  // namespace qwen2::emulation
