#include "cuda/quantized_launch.h"
#include "cuda/quantized_pack.h"
#include "ops/swiglu_int4/swiglu_int4.h"

namespace qwen2::cuda {

void swiglu_int4(Context& context, const SwigluInt4Args& args) {
  require_vectors("swiglu_int4", args.x);
  multiply_quantized<Int4Codec>(context, args.x, args.weight,
                                SwigluFinish{rows_of<bf16>(args.out), static_cast<int>(args.out.shape[1])},
                                args.batch_invariant != 0);
}

void swiglu_int4_pack(Context& context, const SwigluInt4PackArgs& args) {
  const Int4Source source = int4_source(args);
  pack_int4(context, source, args.weight,
            {.first = args.row_offset / 8, .count = source.rows() / 8, .total = ceil_div(args.weight.shape[0] / 2, 8),
             .together = 1, .part = args.part});
}

}  // namespace qwen2::cuda
