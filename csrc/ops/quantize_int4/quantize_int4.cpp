#include "ops/quantize_int4/quantize_int4.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const QuantizeInt4Args& args) {
  Dim R("R"), K("K"), G("G");
  contract.tensor("source", args.source, {&R, &K}, activation | DType::f16);
  contract.require(R.value % 8 == 0, "source must have rows that are a multiple of 8");
  if (args.column_scales.present()) contract.tensor("column_scales", args.column_scales, {&K}, DType::f32);
  Dim packed_rows("R/8", R.value / 8, "source");
  contract.tensor("qweight", args.qweight, {&K, &packed_rows}, DType::i32);
  contract.tensor("qzeros", args.qzeros, {&G, &packed_rows}, DType::i32);
  contract.tensor("scales", args.scales, {&G, &R}, DType::f16);
  contract.require(G.value > 0 && K.value % G.value == 0 && is_group(static_cast<int32_t>(K.value / G.value)),
                   "K / G must be a group of 32, 64 or 128 columns");
  contract.require(args.clip_steps >= 0 && args.clip_steps <= 30, "clip_steps must be from 0 to 30");
  contract.alone("qweight", args.qweight);
  contract.alone("qzeros", args.qzeros);
  contract.alone("scales", args.scales);
}

}  // namespace qwen2
