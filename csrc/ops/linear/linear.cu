#include "cuda/matmul_launch.h"
#include "cuda/matmul_pack.h"
#include "ops/linear/linear.h"

namespace qwen2::cuda {
namespace {

template <typename Out>
void linear_into(Context& context, const LinearArgs& args) {
  const LinearFinish<Out> finish{rows_of<Out>(args.out), args.bias.present() ? args.bias.as<float>() : nullptr,
                                 static_cast<int>(args.out.shape[1])};
  multiply(context, args.x, args.weight, finish, args.batch_invariant != 0);
}

}  // namespace

void linear(Context& context, const LinearArgs& args) {
  require_vectors("linear", args.x);
  if (args.out.dtype == DType::f32) return linear_into<float>(context, args);
  linear_into<bf16>(context, args);
}

void linear_pack(Context& context, const LinearPackArgs& args) {
  pack(context, args.source, args.weight.as<bf16>(), args.row_offset, args.weight.shape[0],
       {.together = 16, .base = 0});
}

}  // namespace qwen2::cuda
