#include "ops/swiglu_int4/swiglu_int4.h"

#include "core/int4.h"

namespace qwen2 {

void check(Contract& contract, const SwigluInt4Args& args) {
  Dim T("T"), K("K"), I("I"), N("2·I");
  contract.tensor("x", args.x, {&T, &K}, activation);
  contract.weight("weight", args.weight, {&N, &K}, DType::int4, Layout::swiglu_weight);
  contract.tensor("out", args.out, {&T, &I}, activation);
  contract.same_dtype("x", args.x, "out", args.out);
  contract.require(N.value == 2 * I.value, "weight must have two rows for each column of out");
  contract.flag("exact", args.exact);
  contract.flag("batch_invariant", args.batch_invariant);
  contract.alone("out", args.out);
}

void check(Contract& contract, const SwigluInt4PackArgs& args) {
  Dim R("R"), K("K"), N("2·I");
  contract.weight("weight", args.weight, {&N, &K}, DType::int4, Layout::swiglu_weight);
  check_int4_source(contract, int4_source(args), R, K, args.weight.group);
  contract.require(args.part == 0 || args.part == 1, "part must be 0 (gate) or 1 (up)");
  contract.require(N.value % 2 == 0, "weight must have an even number of rows");
  contract.require(args.row_offset >= 0 && args.row_offset % 8 == 0 && args.row_offset + R.value <= N.value / 2,
                   "rows row_offset … row_offset + R must lie within the I rows of the part, from a multiple of 8 on");
  contract.alone("weight", args.weight);
}

}  // namespace qwen2
