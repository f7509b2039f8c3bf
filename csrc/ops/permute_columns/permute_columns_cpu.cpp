#include "cpu/kernel.h"
#include "ops/permute_columns/permute_columns.h"

namespace qwen2::cpu::QWEN2_SIMD {

constexpr int64_t piece = 4096;  // columns

void permute_columns(Context& context, const PermuteColumnsArgs& args) {
  require_bf16("permute_columns", args.x);
  const int64_t tokens = args.x.shape[0], K = args.x.shape[1], pieces = (K + piece - 1) / piece;
  const int32_t* columns = args.columns.as<int32_t>();
  parallel(context, tokens * pieces, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / pieces, first = i % pieces * piece, last = first + piece < K ? first + piece : K;
      const bf16* x = args.x.row<bf16>(t);
      bf16* out = args.out.row<bf16>(t);
      for (int64_t j = first; j < last; ++j) {
        if (columns[j] < 0 || columns[j] >= K)
          fail("invalid_argument", "columns[%lld] = %d is outside the %lld columns of x", static_cast<long long>(j),
               columns[j], static_cast<long long>(K));
        out[j] = x[columns[j]];
      }
    }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
