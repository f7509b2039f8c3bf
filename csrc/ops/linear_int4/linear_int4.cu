#include "cuda/quantized_launch.h"
#include "cuda/quantized_pack.h"
#include "ops/linear_int4/linear_int4.h"

namespace qwen2::cuda {
namespace {

template <typename Out>
void linear_into(Context& context, const LinearInt4Args& args) {
  const LinearFinish<Out> finish{rows_of<Out>(args.out), args.bias.present() ? args.bias.as<float>() : nullptr,
                                 static_cast<int>(args.out.shape[1])};
  multiply_quantized<Int4Codec>(context, args.x, args.weight, finish, args.batch_invariant != 0);
}

}  // namespace

void linear_int4(Context& context, const LinearInt4Args& args) {
  require_vectors("linear_int4", args.x);
  if (args.out.dtype == DType::f32) return linear_into<float>(context, args);
  linear_into<bf16>(context, args);
}

void linear_int4_pack(Context& context, const LinearInt4PackArgs& args) {
  const Int4Source source = int4_source(args);
  pack_int4(context, source, args.weight,
            {.first = args.row_offset / 8, .count = source.rows() / 8, .total = ceil_div(args.weight.shape[0], 8),
             .together = 2, .part = 0});
}

}  // namespace qwen2::cuda
