#include "ops/silu_mul/silu_mul.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const SiluMulArgs& args) {
  Dim T("T"), I("I");
  contract.tensor("gate", args.gate, {&T, &I}, activation);
  contract.tensor("up", args.up, {&T, &I}, activation);
  contract.tensor("out", args.out, {&T, &I}, activation);
  contract.same_dtype("gate", args.gate, "up", args.up);
  contract.same_dtype("gate", args.gate, "out", args.out);
  contract.same_or_disjoint("out", args.out, "gate", args.gate);
  contract.disjoint("out", args.out, "up", args.up);
}

}  // namespace qwen2
