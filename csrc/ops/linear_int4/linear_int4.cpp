#include "ops/linear_int4/linear_int4.h"

#include "core/int4.h"

namespace qwen2 {

void check(Contract& contract, const LinearInt4Args& args) {
  contract.product(args.x, args.weight, DType::int4, args.bias, args.out);
  contract.flag("exact", args.exact);
  contract.flag("batch_invariant", args.batch_invariant);
}

void check(Contract& contract, const LinearInt4PackArgs& args) {
  Dim R("R"), K("K"), N("N");
  contract.weight("weight", args.weight, {&N, &K}, DType::int4, Layout::linear_weight);
  check_int4_source(contract, int4_source(args), R, K, args.weight.group);
  contract.require(args.row_offset >= 0 && args.row_offset % 8 == 0 && args.row_offset + R.value <= N.value,
                   "rows row_offset … row_offset + R must lie within the weight's N rows, from a multiple of 8 on");
  contract.alone("weight", args.weight);
}

}  // namespace qwen2
