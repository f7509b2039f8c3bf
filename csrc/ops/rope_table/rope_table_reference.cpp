#include <cmath>

#include "ops/rope_table/rope_table.h"
#include "reference/kernel.h"

namespace qwen2::reference {

void rope_table(const RopeTableArgs& args) {
  const int64_t tokens = args.positions.shape[0], half = args.frequencies.shape[0];
  for (int64_t t = 0; t < tokens; ++t) {
    float* row = args.table.row<float>(t);
    for (int64_t j = 0; j < half; ++j) {
      const float angle = static_cast<float>(args.positions.as<int32_t>()[t]) * args.frequencies.as<float>()[j];
      row[j] = static_cast<float>(std::cos(static_cast<double>(angle)) * args.scale);
      row[half + j] = static_cast<float>(std::sin(static_cast<double>(angle)) * args.scale);
    }
  }
}

}  // namespace qwen2::reference
