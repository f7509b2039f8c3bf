#include "ops/embedding/embedding.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const EmbeddingArgs& args) {
  Dim T("T"), V("V"), H("H");
  contract.tensor("ids", args.ids, {&T}, DType::i32);
  if (args.table.layout == Layout::strided) {
    contract.tensor("table", args.table, {&V, &H}, DType::bf16);
  } else {
    contract.weight("table", args.table, {&V, &H}, DType::bf16 | DType::int8, Layout::linear_weight);
  }
  contract.tensor("out", args.out, {&T, &H}, activation);
  contract.alone("out", args.out);
}

}  // namespace qwen2
