// TMA: boxes of a matrix from global to swizzled shared memory, by a tensor map that the driver's function encodes.
#pragma once

#include <cudaTypedefs.h>

#include "emulation/executor.h"

namespace qwen2::emulation {

// cuTensorMapEncodeTiled of matrices of bf16, with the swizzle of 128 bytes: the driver's conditions are its conditions.
CUresult encode_tensor_map(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                           const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                           const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                           CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill);

// The map's box whose first element is (row, column) of its matrix; what of it is outside is zeros.
void tensor_load(void* to, const CUtensorMap& map, int row, int column, uint64_t* barrier, Site site);

// Where the swizzle of 128 bytes puts what would be at this address of shared memory: bits 4-6 XOR bits 7-9.
constexpr uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

}  // namespace qwen2::emulation
