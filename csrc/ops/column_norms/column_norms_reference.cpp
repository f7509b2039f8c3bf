#include <cmath>

#include "ops/column_norms/column_norms.h"
#include "reference/kernel.h"

namespace qwen2::reference {

void column_norms(const ColumnNormsArgs& args) {
  for_activation(args.a.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t k = 0; k < args.a.shape[1]; ++k) {
      double sum = 0;
      for (int64_t t = 0; t < args.a.shape[0]; ++t) {
        const double b = args.b.present() ? to_float(args.b.row<T>(t)[k]) : 0;
        sum += std::pow(std::abs(to_float(args.a.row<T>(t)[k]) - b), args.power);
      }
      args.out.as<float>()[k] = static_cast<float>(sum);
    }
  });
}

}  // namespace qwen2::reference
