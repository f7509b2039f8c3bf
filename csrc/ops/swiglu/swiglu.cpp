#include "ops/swiglu/swiglu.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const SwigluArgs& args) {
  Dim T("T"), K("K"), I("I"), N("2·I");
  contract.tensor("x", args.x, {&T, &K}, activation);
  contract.weight("weight", args.weight, {&N, &K}, DType::bf16, Layout::swiglu_weight);
  contract.tensor("out", args.out, {&T, &I}, activation);
  contract.same_dtype("x", args.x, "out", args.out);
  contract.require(N.value == 2 * I.value, "weight must have two rows for each column of out");
  contract.alone("out", args.out);
  contract.flag("batch_invariant", args.batch_invariant);
}

void check(Contract& contract, const SwigluPackArgs& args) {
  Dim R("R"), K("K"), N("2·I");
  contract.weight("weight", args.weight, {&N, &K}, DType::bf16, Layout::swiglu_weight);
  contract.tensor("source", args.source, {&R, &K}, activation | DType::f16);
  contract.require(args.part == 0 || args.part == 1, "part must be 0 (gate) or 1 (up)");
  contract.require(N.value % 2 == 0, "weight must have an even number of rows");
  contract.require(args.row_offset >= 0 && args.row_offset + R.value <= N.value / 2,
                   "rows row_offset … row_offset + R must lie within the I rows of the part");
  contract.alone("weight", args.weight);
}

}  // namespace qwen2
