#include "ops/permute_columns/permute_columns.h"
#include "reference/kernel.h"

namespace qwen2::reference {

void permute_columns(const PermuteColumnsArgs& args) {
  const int64_t tokens = args.x.shape[0], K = args.x.shape[1];
  for_activation(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t j = 0; j < K; ++j) {
        const int32_t column = args.columns.as<int32_t>()[j];
        if (column < 0 || column >= K)
          fail("invalid_argument", "columns[%lld] = %d is outside the %lld columns of x", static_cast<long long>(j),
               column, static_cast<long long>(K));
        args.out.row<T>(t)[j] = args.x.row<T>(t)[column];
      }
  });
}

}  // namespace qwen2::reference
