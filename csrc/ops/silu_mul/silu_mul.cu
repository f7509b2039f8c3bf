#include "cuda/elementwise.h"
#include "ops/silu_mul/silu_mul.h"

namespace qwen2::cuda {
namespace {

constexpr int threads = 256;

__device__ inline float silu_mul(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

// One thread 16 bytes of each, or one element where rows do not allow that.
template <int width>
__global__ void __launch_bounds__(threads)
    silu_mul_kernel(Rows<const bf16> gate, Rows<const bf16> up, Rows<bf16> out, int64_t tokens, int64_t intermediate) {
  griddepcontrol_wait();
  const int64_t pieces = intermediate / width;
  for (int64_t item = global_thread(); item < tokens * pieces; item += all_threads()) {
    const int64_t t = item / pieces, i = item % pieces * width;
    float a[width], b[width];
    load_elements(a, gate.row(t) + i);
    load_elements(b, up.row(t) + i);
    for (int j = 0; j < width; ++j) a[j] = silu_mul(a[j], b[j]);
    store_elements(out.row(t) + i, a);
  }
}

}  // namespace

void silu_mul(Context& context, const SiluMulArgs& args) {
  require_bf16("silu_mul", args.gate);
  const int64_t tokens = args.gate.shape[0], intermediate = args.gate.shape[1];
  if (tokens == 0) return;
  const bool vectors = vectorizable(args.gate, intermediate) && vectorizable(args.up, intermediate) &&
                       vectorizable(args.out, intermediate);
  const int64_t items = tokens * intermediate / (vectors ? vector_bf16 : 1);
  launch(context, vectors ? silu_mul_kernel<vector_bf16> : silu_mul_kernel<1>,
         {.blocks = blocks_for(items, threads), .threads = threads, .dependent = true},
         rows_of<const bf16>(args.gate), rows_of<const bf16>(args.up), rows_of<bf16>(args.out), tokens, intermediate);
}

}  // namespace qwen2::cuda
