#include <algorithm>
#include <cmath>

#include "ops/linear_int8/linear_int8.h"
#include "reference/kernel.h"
#include "reference/quantized.h"

namespace qwen2::reference {
namespace {

float finite(const Tensor& source, int64_t r, int64_t k) {
  const float value = element(source, row_of(source, r), k);
  if (!std::isfinite(value))
    fail("invalid_argument", "the weight at row %lld, column %lld is not a finite number", static_cast<long long>(r),
         static_cast<long long>(k));
  return value;
}

}  // namespace

void linear_int8(const LinearInt8Args& args) { quantized_linear(args); }

void linear_int8_pack(const LinearInt8PackArgs& args) {
  const QuantizedWeight weight(args.weight);
  for (int64_t r = 0; r < args.source.shape[0]; ++r)
    for (int64_t g = 0; g < weight.groups; ++g) {
      const int64_t n = args.row_offset + r, first = g * weight.group;
      float largest = 0;
      for (int64_t k = first; k < first + weight.group; ++k)
        largest = std::max(largest, std::abs(finite(args.source, r, k)));
      const f16 scale = to_f16(std::clamp(largest / 127.0f, 0x1p-24f, 65504.0f));
      for (int64_t k = first; k < first + weight.group; ++k) {
        const float q = std::clamp(std::nearbyint(finite(args.source, r, k) / to_float(scale)), -127.0f, 127.0f);
        weight.q[n * weight.columns + k] = static_cast<uint8_t>(static_cast<int>(q) + int8_zero);
      }
      weight.scales[n * weight.groups + g] = scale;
      weight.zeros[n * weight.groups + g] = int8_zero;
    }
}

}  // namespace qwen2::reference
