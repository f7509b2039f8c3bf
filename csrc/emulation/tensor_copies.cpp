#include "emulation/tensor_copies.h"

#include <algorithm>
#include <cstring>

#include "emulation/bulk.h"
#include "emulation/runtime_api.h"
#include "emulation/tensor_core.h"

namespace qwen2::emulation {
namespace {

constexpr uint64_t cookie = 0x70616D726F736E65;

// What the opaque words of a tensor map say here.
struct Matrix {
  uint64_t cookie;
  const std::byte* address;
  int64_t rows, columns, row_bytes;
  uint32_t box_rows;
};
static_assert(sizeof(Matrix) <= sizeof(CUtensorMap));

constexpr int64_t element_bytes = 2;
constexpr uint32_t line_bytes = 128, chunk_bytes = 16;  // a row of a box; what the swizzle moves as one

void read_box(const Matrix& matrix, int row, int column, uint32_t address, std::byte* at) {
  const int64_t begin = std::max<int64_t>(0, column);
  const int64_t end = std::min<int64_t>(matrix.columns, int64_t{column} + line_bytes / element_bytes);
  for (uint32_t r = 0; r < matrix.box_rows; ++r) {
    std::byte line[line_bytes] = {};
    const int64_t y = int64_t{row} + r;
    if (y >= 0 && y < matrix.rows && begin < end)
      std::memcpy(line + (begin - column) * element_bytes, matrix.address + y * matrix.row_bytes + begin * element_bytes,
                  static_cast<size_t>((end - begin) * element_bytes));
    for (uint32_t place = 0; place < line_bytes; place += chunk_bytes)
      std::memcpy(at + (swizzled(address + r * line_bytes + place) - address), line + place, chunk_bytes);
  }
}

}  // namespace

CUresult encode_tensor_map(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                           const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                           const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                           CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  const auto within = [](uint64_t value, uint64_t most) { return value > 0 && value <= most; };
  const bool taken = type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 && rank == 2 && element_strides[0] == 1 &&
                     element_strides[1] == 1 && interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
                     swizzle == CU_TENSOR_MAP_SWIZZLE_128B && fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  // A box narrower than the swizzle would need the layout of its rows said.
  const bool allowed = reinterpret_cast<uintptr_t>(address) % 16 == 0 && within(sizes[0], uint64_t{1} << 32) &&
                       within(sizes[1], uint64_t{1} << 32) && strides[0] % 16 == 0 &&
                       strides[0] >= sizes[0] * uint64_t{element_bytes} && strides[0] < uint64_t{1} << 40 &&
                       box[0] * element_bytes == line_bytes && within(box[1], 256);
  if (!taken || !allowed) return CUDA_ERROR_INVALID_VALUE;
  const Matrix matrix{cookie, static_cast<const std::byte*>(address), static_cast<int64_t>(sizes[1]),
                      static_cast<int64_t>(sizes[0]), static_cast<int64_t>(strides[0]), box[1]};
  *map = {};
  std::memcpy(map, &matrix, sizeof matrix);
  return CUDA_SUCCESS;
}

void tensor_load(void* to, const CUtensorMap& map, int row, int column, uint64_t* barrier, Site site) {
  Matrix matrix;
  std::memcpy(&matrix, &map, sizeof matrix);
  if (matrix.cookie != cookie) fault("copies at %s:%d by what is no tensor map", site.file, site.line);
  const uint32_t bytes = matrix.box_rows * line_bytes;
  if (!current->block->shared->contains(to, bytes))
    fault("copies a box of %u bytes at %s:%d, of which not all are in its block's shared memory", bytes, site.file,
          site.line);
  const uint32_t address = shared_address(to);
  if (address % 1024 != 0)
    fault("copies a box to shared address %u at %s:%d, where the swizzle's pattern of 1024 bytes does not begin", address,
          site.file, site.line);
  load_to_shared(to, bytes, barrier, [=](std::byte* at) { read_box(matrix, row, column, address, at); }, site);
}

}  // namespace qwen2::emulation

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(qwen2::emulation::encode_tensor_map) : nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
