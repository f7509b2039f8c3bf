#include "ops/gather_rows/gather_rows.h"
#include "reference/kernel.h"

namespace qwen2::reference {

void gather_rows(const GatherRowsArgs& args) {
  const int64_t tokens = args.x.shape[0], hidden = args.x.shape[1], count = args.rows.shape[0];
  for_activation(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t b = 0; b < count; ++b) {
      const int32_t row = args.rows.as<int32_t>()[b];
      if (row < 0 || row >= tokens)
        fail("invalid_argument", "rows[%lld] = %d is outside the %lld rows of x", static_cast<long long>(b), row,
             static_cast<long long>(tokens));
      for (int64_t i = 0; i < hidden; ++i) args.out.row<T>(b)[i] = args.x.row<T>(row)[i];
    }
  });
}

}  // namespace qwen2::reference
