#include "cuda/quantized_launch.h"
#include "cuda/quantized_pack.h"
#include "ops/linear_int8/linear_int8.h"

namespace qwen2::cuda {
namespace {

template <typename Out>
void linear_into(Context& context, const LinearInt8Args& args) {
  const LinearFinish<Out> finish{rows_of<Out>(args.out), args.bias.present() ? args.bias.as<float>() : nullptr,
                                 static_cast<int>(args.out.shape[1])};
  multiply_quantized<Int8Codec>(context, args.x, args.weight, finish, args.batch_invariant != 0);
}

}  // namespace

void linear_int8(Context& context, const LinearInt8Args& args) {
  require_vectors("linear_int8", args.x);
  if (args.out.dtype == DType::f32) return linear_into<float>(context, args);
  linear_into<bf16>(context, args);
}

void linear_int8_pack(Context& context, const LinearInt8PackArgs& args) {
  pack_int8(context, args.source, args.weight, args.row_offset);
}

}  // namespace qwen2::cuda
