#include <cstring>

#include "ops/gather_rows/gather_rows.h"
#include "reference/kernel.h"

namespace qwen2::reference {

void gather_rows(const GatherRowsArgs& args) {
  const int64_t tokens = args.x.shape[0], hidden = args.x.shape[1], count = args.rows.shape[0];
  for (int64_t b = 0; b < count; ++b) {
    const int32_t row = args.rows.as<int32_t>()[b];
    if (row < 0 || row >= tokens)
      fail("invalid_argument", "rows[%lld] = %d is outside the %lld rows of x", static_cast<long long>(b), row,
           static_cast<long long>(tokens));
    std::memcpy(row_of(args.out, b), row_of(args.x, row), static_cast<size_t>(hidden * size_of(args.x.dtype)));
  }
}

}  // namespace qwen2::reference
