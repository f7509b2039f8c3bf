#include "ops/convert/convert.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const ConvertArgs& args) {
  Dim R("R"), N("N");
  if (args.source.rank == 2) {
    contract.tensor("source", args.source, {&R, &N}, activation | DType::f16);
    contract.tensor("out", args.out, {&R, &N}, activation);
    const bool contiguous = args.source.strides[0] == N.value && args.out.strides[0] == N.value;
    contract.require(R.value <= 1 || contiguous, "source and out must be contiguous");
  } else {
    contract.tensor("source", args.source, {&N}, activation | DType::f16);
    contract.tensor("out", args.out, {&N}, activation);
  }
  contract.alone("out", args.out);
}

}  // namespace qwen2
