#include "ops/convert/convert.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const ConvertArgs& args) {
  Dim N("N");
  contract.tensor("source", args.source, {&N}, activation | DType::f16);
  contract.tensor("out", args.out, {&N}, DType::f32);
}

}  // namespace qwen2
