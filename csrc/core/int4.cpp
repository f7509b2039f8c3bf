#include "core/int4.h"

namespace qwen2 {

void check_int4_source(Contract& contract, const Int4Source& source, Dim& rows, Dim& columns, int32_t group) {
  const int32_t format = static_cast<int32_t>(source.format);
  contract.require(format >= 0 && format <= 2, "format must be 0 (AWQ), 1 (GPTQ) or 2 (GPTQ v2)");
  Dim G("G");
  contract.tensor("scales", source.scales, {&G, &rows}, DType::f16);
  contract.require(rows.value % 8 == 0, "rows must be a multiple of 8");
  contract.require(G.value > 0 && columns.value % G.value == 0 && columns.value / G.value % group == 0,
                   "the K columns must be G groups of a multiple of the weight's group of %d", group);
  Dim packed_rows("R/8", rows.value / 8, "scales"), packed_columns("K/8", columns.value / 8, "weight");
  contract.tensor("qzeros", source.qzeros, {&G, &packed_rows}, DType::i32);
  if (source.format == Int4Format::awq) {
    contract.tensor("qweight", source.qweight, {&columns, &packed_rows}, DType::i32);
  } else {
    contract.tensor("qweight", source.qweight, {&packed_columns, &rows}, DType::i32);
  }
  if (source.columns.present()) contract.tensor("columns", source.columns, {&columns}, DType::i32);
}

}  // namespace qwen2
