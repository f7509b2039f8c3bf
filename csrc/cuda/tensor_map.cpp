#include "cuda/tensor_map.h"

#include <cuda_runtime.h>

#include "cuda/status.h"

namespace qwen2::cuda {
namespace {

// Asked of the runtime, so that nothing here is linked with the driver's library.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    require(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
            "asking the driver for tensor maps");
    if (found != cudaDriverEntryPointSuccess) fail("unsupported", "the driver has no tensor maps");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encode;
}

}  // namespace

CUtensorMap tensor_map(const void* matrix, uint64_t rows, uint64_t columns, uint64_t row_stride, uint32_t box_rows) {
  // Innermost first.
  const cuuint64_t sizes[] = {columns, rows}, strides[] = {row_stride * 2};
  const cuuint32_t box[] = {tensor_box_columns, box_rows}, element_strides[] = {1, 1};
  CUtensorMap map;
  const CUresult status =
      encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(matrix), sizes, strides, box,
                element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    fail("internal", "no tensor map of %llu x %llu bf16 in rows of %llu, in boxes of %u rows (the driver's error %d)",
         static_cast<unsigned long long>(rows), static_cast<unsigned long long>(columns),
         static_cast<unsigned long long>(row_stride), box_rows, static_cast<int>(status));
  return map;
}

}  // namespace qwen2::cuda
