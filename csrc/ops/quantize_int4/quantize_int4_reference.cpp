#include <algorithm>
#include <cmath>

#include "core/int4.h"
#include "ops/quantize_int4/quantize_int4.h"
#include "reference/kernel.h"

namespace qwen2::reference {
namespace {

constexpr int max_group = 128;

// One row's weights of one group, and how they are rounded.
struct Group {
  float w[max_group];
  int size;

  struct Rounding {
    f16 scale;
    int zero;
    float error;
  };

  int q(int k, const Rounding& by) const {
    const float steps = std::nearbyint(w[k] / to_float(by.scale)) + static_cast<float>(by.zero);
    return static_cast<int>(std::clamp(steps, 0.0f, 15.0f));
  }

  Rounding with_shrink(float shrink) const {
    const float lo = std::min(0.0f, *std::min_element(w, w + size)), hi = std::max(0.0f, *std::max_element(w, w + size));
    Rounding by{to_f16(std::clamp((hi - lo) * shrink / 15.0f, 0x1p-24f, 65504.0f)), 0, 0};
    by.zero = static_cast<int>(std::clamp(std::nearbyint(-lo * shrink / to_float(by.scale)), 0.0f, 15.0f));
    for (int k = 0; k < size; ++k) {
      const float difference = to_float(by.scale) * static_cast<float>(q(k, by) - by.zero) - w[k];
      by.error += difference * difference;
    }
    return by;
  }

  Rounding best(int clip_steps) const {
    Rounding best = with_shrink(1.0f);
    for (int i = 1; i <= clip_steps; ++i) {
      const Rounding by = with_shrink(1.0f - static_cast<float>(i) / 40.0f);
      if (by.error < best.error) best = by;
    }
    return best;
  }
};

Group read_group(const QuantizeInt4Args& args, int64_t n, int64_t first, int size) {
  Group group{.w = {}, .size = size};
  for (int k = 0; k < size; ++k) {
    group.w[k] = element(args.source, row_of(args.source, n), first + k);
    if (args.column_scales.present()) group.w[k] *= args.column_scales.as<float>()[first + k];
    if (!std::isfinite(group.w[k]))
      fail("invalid_argument", "the weight at row %lld, column %lld is not a finite number", static_cast<long long>(n),
           static_cast<long long>(first + k));
  }
  return group;
}

void set_nibble(uint32_t& word, int64_t n, int value) {
  const int shift = 4 * Int4Source::awq_nibble(n);
  word = (word & ~(15u << shift)) | static_cast<uint32_t>(value) << shift;
}

}  // namespace

void quantize_int4(const QuantizeInt4Args& args) {
  const int64_t rows = args.source.shape[0], groups = args.scales.shape[0];
  const int size = static_cast<int>(args.source.shape[1] / groups);
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t g = 0; g < groups; ++g) {
      const Group group = read_group(args, n, g * size, size);
      const Group::Rounding by = group.best(args.clip_steps);
      args.scales.row<f16>(g)[n] = by.scale;
      set_nibble(args.qzeros.row<uint32_t>(g)[n / 8], n, by.zero);
      for (int k = 0; k < size; ++k) set_nibble(args.qweight.row<uint32_t>(g * size + k)[n / 8], n, group.q(k, by));
    }
}

}  // namespace qwen2::reference
