#include "ops/gather_rows/gather_rows.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const GatherRowsArgs& args) {
  Dim T("T"), H("H"), B("B");
  contract.tensor("x", args.x, {&T, &H}, activation | DType::i32);
  contract.tensor("rows", args.rows, {&B}, DType::i32);
  contract.tensor("out", args.out, {&B, &H}, activation | DType::i32);
  contract.same_dtype("x", args.x, "out", args.out);
  contract.alone("out", args.out);
}

}  // namespace qwen2
