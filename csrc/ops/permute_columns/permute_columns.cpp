#include "ops/permute_columns/permute_columns.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const PermuteColumnsArgs& args) {
  Dim T("T"), K("K");
  contract.tensor("x", args.x, {&T, &K}, activation);
  contract.tensor("columns", args.columns, {&K}, DType::i32);
  contract.tensor("out", args.out, {&T, &K}, activation);
  contract.same_dtype("x", args.x, "out", args.out);
  contract.alone("out", args.out);
}

}  // namespace qwen2
