// Writes rows of a checkpoint's matrix into a weight as matmul.h lays it out: under linear_pack and swiglu_pack.
#pragma once

#include "cuda/elementwise.h"
#include "cuda/matmul_plan.h"

namespace qwen2::cuda {

// Where row r of a matrix goes: `together` rows in each group of 16, from its row `base` on.
struct PackedRows {
  int64_t together, base;
  __device__ int64_t row(int64_t r) const { return r / together * 16 + base + r % together; }
};

constexpr int pack_threads = 256;

// One block a row; blocks beyond the source's rows write padding.
template <typename Source>
__global__ void __launch_bounds__(pack_threads)
    pack_kernel(Rows<const Source> source, int64_t rows, int64_t columns, bf16* weight, int64_t offset,
                PackedRows packed) {
  const int64_t r = blockIdx.x;
  bf16* to = weight + packed.row(offset + r) * columns;
  for (int64_t k = threadIdx.x; k < columns; k += pack_threads)
    store_float(to + k, r < rows ? load_source(source.row(r) + k) : 0.0f);
  // A launch that begins when the last block has ended reads weights without waiting.
  __threadfence();
}

// Source row r becomes row offset + r of a matrix of `total` rows. The padding behind the last row is zeroed with it.
inline void pack(Context& context, const Tensor& source, bf16* weight, int64_t offset, int64_t total,
                 PackedRows packed) {
  const int64_t rows = source.shape[0], columns = source.shape[1];
  if (rows == 0 || columns == 0) return;
  const int64_t padding = offset + rows == total ? ceil_div(total, packed.together) * packed.together - total : 0;
  const Launch how{.blocks = static_cast<unsigned>(rows + padding), .threads = pack_threads};
  const auto run = [&](auto kernel, auto from) {
    launch(context, kernel, how, from, rows, columns, weight, offset, packed);
  };
  if (source.dtype == DType::bf16) return run(pack_kernel<bf16>, rows_of<const bf16>(source));
  if (source.dtype == DType::f16) return run(pack_kernel<f16>, rows_of<const f16>(source));
  run(pack_kernel<float>, rows_of<const float>(source));
}

}  // namespace qwen2::cuda
