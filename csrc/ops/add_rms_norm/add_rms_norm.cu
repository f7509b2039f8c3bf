#include "cuda/norm.h"
#include "ops/add_rms_norm/add_rms_norm.h"

namespace qwen2::cuda {
namespace {

// The sum is written in the first pass and read back, by the same thread, in the second: from L1.
template <int width>
__global__ void __launch_bounds__(norm_threads) add_rms_norm_kernel(Rows<const bf16> x, Rows<bf16> residual,
                                                                    const float* weight, Rows<bf16> out,
                                                                    int64_t hidden, float eps) {
  griddepcontrol_wait();
  const bf16* added = x.row(blockIdx.x);
  bf16* sums = residual.row(blockIdx.x);
  for (int64_t i = threadIdx.x * width; i < hidden; i += norm_threads * width) {
    float a[width], b[width];
    load_elements(a, added + i);
    load_elements(b, sums + i);
    for (int j = 0; j < width; ++j) b[j] += a[j];
    store_elements(sums + i, b);
  }
  normalize_row<width>([sums](float(&v)[width], int64_t i) { load_elements(v, sums + i); }, weight,
                       out.row(blockIdx.x), hidden, eps);
}

}  // namespace

void add_rms_norm(Context& context, const AddRmsNormArgs& args) {
  require_bf16("add_rms_norm", args.x);
  const int64_t tokens = args.x.shape[0], hidden = args.x.shape[1];
  if (tokens == 0) return;
  const bool vectors =
      vectorizable(args.x, hidden) && vectorizable(args.residual, hidden) && vectorizable(args.out, hidden);
  launch(context, vectors ? add_rms_norm_kernel<norm_vector> : add_rms_norm_kernel<1>,
         {.blocks = static_cast<unsigned>(tokens),
          .threads = norm_threads,
          .shared_bytes = sizeof(NormShared),
          .dependent = true},
         rows_of<const bf16>(args.x), rows_of<bf16>(args.residual), args.weight.as<float>(),
         rows_of<bf16>(args.out), hidden, args.eps);
}

}  // namespace qwen2::cuda
