#include "ops/scale/scale.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const ScaleArgs& args) {
  Dim R("R"), K("K");
  contract.tensor("source", args.source, {&R, &K}, activation | DType::f16);
  if (args.row_scales.present()) contract.tensor("row_scales", args.row_scales, {&R}, DType::f32);
  if (args.column_scales.present()) contract.tensor("column_scales", args.column_scales, {&K}, DType::f32);
  contract.tensor("out", args.out, {&R, &K}, activation | DType::f16);
  contract.alone("out", args.out);
}

}  // namespace qwen2
