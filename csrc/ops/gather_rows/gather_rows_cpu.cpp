#include "cpu/kernel.h"
#include "ops/gather_rows/gather_rows.h"

namespace qwen2::cpu::QWEN2_SIMD {

void gather_rows(Context&, const GatherRowsArgs& args) {
  if (args.x.dtype != DType::i32) require_bf16("gather_rows", args.x);
  const int64_t size = size_of(args.x.dtype);
  const auto at = [size](const Tensor& t, int64_t i) { return static_cast<char*>(t.data) + i * t.strides[0] * size; };
  const int64_t tokens = args.x.shape[0], hidden = args.x.shape[1], count = args.rows.shape[0];
  for (int64_t b = 0; b < count; ++b) {
    const int32_t row = args.rows.as<int32_t>()[b];
    if (row < 0 || row >= tokens)
      fail("invalid_argument", "rows[%lld] = %d is outside the %lld rows of x", static_cast<long long>(b), row,
           static_cast<long long>(tokens));
    __builtin_memcpy(at(args.out, b), at(args.x, row), static_cast<size_t>(hidden * size));
  }
}

}  // namespace qwen2::cpu::QWEN2_SIMD
