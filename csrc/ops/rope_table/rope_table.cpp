#include "ops/rope_table/rope_table.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const RopeTableArgs& args) {
  Dim T("T"), D("D"), half("D/2");
  contract.tensor("positions", args.positions, {&T}, DType::i32);
  contract.tensor("frequencies", args.frequencies, {&half}, DType::f32);
  contract.tensor("table", args.table, {&T, &D}, DType::f32);
  contract.require(D.value == 2 * half.value, "table must have two columns for each frequency");
  contract.alone("table", args.table);
}

}  // namespace qwen2
