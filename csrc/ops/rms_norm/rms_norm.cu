#include "cuda/norm.h"
#include "ops/rms_norm/rms_norm.h"

namespace qwen2::cuda {
namespace {

template <int width>
__global__ void __launch_bounds__(norm_threads)
    rms_norm_kernel(Rows<const bf16> x, const float* weight, Rows<bf16> out, int64_t hidden, float eps) {
  griddepcontrol_wait();
  const bf16* row = x.row(blockIdx.x);
  normalize_row<width>([row](float(&v)[width], int64_t i) { load_elements(v, row + i); }, weight,
                       out.row(blockIdx.x), hidden, eps);
}

}  // namespace

void rms_norm(Context& context, const RmsNormArgs& args) {
  require_bf16("rms_norm", args.x);
  const int64_t tokens = args.x.shape[0], hidden = args.x.shape[1];
  if (tokens == 0) return;
  const bool vectors = vectorizable(args.x, hidden) && vectorizable(args.out, hidden);
  launch(context, vectors ? rms_norm_kernel<norm_vector> : rms_norm_kernel<1>,
         {.blocks = static_cast<unsigned>(tokens),
          .threads = norm_threads,
          .shared_bytes = sizeof(NormShared),
          .dependent = true},
         rows_of<const bf16>(args.x), args.weight.as<float>(), rows_of<bf16>(args.out), hidden, args.eps);
}

}  // namespace qwen2::cuda
