#include "cuda/elementwise.h"
#include "cuda/reduce.h"
#include "cuda/shared.h"
#include "ops/column_norms/column_norms.h"

namespace qwen2::cuda {
namespace {

constexpr int warps = 16;
constexpr int threads = warps * warp_size;

struct Shared {
  float sums[warps][warp_size];
};

// A block has 32 columns, a lane one of them; its warps share the rows.
template <typename T>
__global__ void __launch_bounds__(threads)
    column_norms_kernel(Rows<const T> a, Rows<const T> b, bool has_b, float* out, int64_t rows, int64_t columns,
                        int power) {
  Shared& shared_sums = shared<Shared>();
  const int64_t k = int64_t{blockIdx.x} * warp_size + lane_index();
  float sum = 0;
  if (k < columns)
    for (int64_t t = warp_index(); t < rows; t += warps) {
      const float x = load_source(a.row(t) + k);
      const float distance = fabsf(has_b ? x - load_source(b.row(t) + k) : x);
      sum += power == 1 ? distance : distance * distance;
    }
  shared_sums.sums[warp_index()][lane_index()] = sum;
  __syncthreads();
  if (warp_index() != 0 || k >= columns) return;
  for (int other = 1; other < warps; ++other) sum += shared_sums.sums[other][lane_index()];
  out[k] = sum;
}

template <typename T>
void sum_columns(Context& context, const ColumnNormsArgs& args) {
  const int64_t columns = args.a.shape[1];
  const bool has_b = args.b.present();
  launch(context, column_norms_kernel<T>,
         {.blocks = static_cast<unsigned>((columns + warp_size - 1) / warp_size),
          .threads = threads,
          .shared_bytes = sizeof(Shared)},
         rows_of<const T>(args.a), has_b ? rows_of<const T>(args.b) : Rows<const T>{nullptr, 0}, has_b,
         args.out.as<float>(), args.a.shape[0], columns, args.power);
}

}  // namespace

void column_norms(Context& context, const ColumnNormsArgs& args) {
  if (args.a.dtype == DType::bf16) return sum_columns<bf16>(context, args);
  sum_columns<float>(context, args);
}

}  // namespace qwen2::cuda
