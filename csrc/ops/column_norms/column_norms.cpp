#include "ops/column_norms/column_norms.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const ColumnNormsArgs& args) {
  Dim T("T"), K("K");
  contract.tensor("a", args.a, {&T, &K}, activation);
  if (args.b.present()) {
    contract.tensor("b", args.b, {&T, &K}, activation);
    contract.same_dtype("a", args.a, "b", args.b);
  }
  contract.tensor("out", args.out, {&K}, DType::f32);
  contract.require(args.power == 1 || args.power == 2, "power must be 1 or 2");
  contract.alone("out", args.out);
}

}  // namespace qwen2
