#include "ops/rms_norm/rms_norm.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const RmsNormArgs& args) {
  Dim T("T"), H("H");
  contract.tensor("x", args.x, {&T, &H}, activation);
  contract.tensor("weight", args.weight, {&H}, DType::f32);
  contract.tensor("out", args.out, {&T, &H}, activation);
  contract.same_dtype("x", args.x, "out", args.out);
  contract.disjoint("out", args.out, "weight", args.weight);
  contract.same_or_disjoint("out", args.out, "x", args.x);
  contract.require(args.eps > 0, "eps must be positive");
}

}  // namespace qwen2
