#include <cmath>

#include "cpu/kernel.h"
#include "ops/rope_table/rope_table.h"

namespace qwen2::cpu::QWEN2_SIMD {

// In double, one by one: T · D/2 of them once a step, where a layer's linears are a thousand times the work.
void rope_table(Context& context, const RopeTableArgs& args) {
  const int64_t tokens = args.positions.shape[0], half = args.frequencies.shape[0];
  parallel(context, tokens, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = args.table.row<float>(t);
      for (int64_t j = 0; j < half; ++j) {
        const float angle = static_cast<float>(args.positions.as<int32_t>()[t]) * args.frequencies.as<float>()[j];
        row[j] = static_cast<float>(::cos(static_cast<double>(angle)) * args.scale);
        row[half + j] = static_cast<float>(::sin(static_cast<double>(angle)) * args.scale);
      }
    }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
