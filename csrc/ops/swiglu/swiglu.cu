#include "cuda/matmul_launch.h"
#include "cuda/matmul_pack.h"
#include "ops/swiglu/swiglu.h"

namespace qwen2::cuda {

void swiglu(Context& context, const SwigluArgs& args) {
  require_vectors("swiglu", args.x);
  multiply(context, args.x, args.weight, SwigluFinish{rows_of<bf16>(args.out), static_cast<int>(args.out.shape[1])},
           args.batch_invariant != 0);
}

void swiglu_pack(Context& context, const SwigluPackArgs& args) {
  pack(context, args.source, args.weight.as<bf16>(), args.row_offset, args.weight.shape[0] / 2,
       {.together = 8, .base = 8 * args.part});
}

}  // namespace qwen2::cuda
