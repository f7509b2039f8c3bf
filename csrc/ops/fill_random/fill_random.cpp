#include "ops/fill_random/fill_random.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const FillRandomArgs& args) {
  contract.require(args.out.dtype == DType::f32 || args.out.dtype == DType::bf16, "out must be f32 or bf16");
  int64_t expected = 1;
  for (int i = args.out.rank - 1; i >= 0; --i) {
    contract.require(args.out.layout != Layout::strided || args.out.shape[i] == 1 || args.out.strides[i] == expected,
                     "out must be contiguous");
    expected *= args.out.shape[i];
  }
  contract.require(args.out.layout == Layout::strided || args.out.dtype == DType::bf16, "a packed weight must be bf16");
  contract.require(args.std >= 0, "std must not be negative");
}

}  // namespace qwen2
