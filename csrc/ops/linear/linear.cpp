#include "ops/linear/linear.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const LinearArgs& args) {
  contract.product(args.x, args.weight, DType::bf16, args.bias, args.out);
  contract.flag("batch_invariant", args.batch_invariant);
}

void check(Contract& contract, const LinearPackArgs& args) {
  Dim R("R"), K("K"), N("N");
  contract.weight("weight", args.weight, {&N, &K}, DType::bf16, Layout::linear_weight);
  contract.tensor("source", args.source, {&R, &K}, activation | DType::f16);
  contract.require(args.row_offset >= 0 && args.row_offset + R.value <= N.value,
                   "rows row_offset … row_offset + R must lie within the weight's N rows");
  contract.alone("weight", args.weight);
}

}  // namespace qwen2
