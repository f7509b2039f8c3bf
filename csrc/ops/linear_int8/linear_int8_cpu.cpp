#include "ops/linear_int8/linear_int8.h"

#include "cpu/panel_output.h"
#include "cpu/quantized_product.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

template <typename T>
void linear_into(Context& context, const LinearInt8Args& args) {
  const LinearOutput<T> output(args.out, args.bias);
  if (args.exact) return multiply_quantized<ExactInt8>(context, args.x, args.weight, output);
  multiply_quantized<RoundedInt8>(context, args.x, args.weight, output);
}

template <typename T>
void require_finite(const T* source, int64_t group, int64_t row, int64_t first_column) {
  for (int64_t k = 0; k < group; ++k) {
    const float value = to_float(source[k]);
    if (value - value != 0)
      fail("invalid_argument", "the weight at row %lld, column %lld is not a finite number", static_cast<long long>(row),
           static_cast<long long>(first_column + k));
  }
}

// Row `r` of a panel's group: q + 128 of its columns, four a word, and their scale. False if a number is not finite.
template <typename T>
bool round_row(const T* source, int64_t columns, const QuantizedGroup& group, int64_t r) {
  F32 largest = zero(), not_finite = zero();
  for (int64_t k = 0; k < columns; k += lanes) {
    const F32 value = load(source + k);
    largest = max(largest, abs(value));
    not_finite = fma(value, zero(), not_finite);
  }
  if (sum(not_finite) != 0) return false;  // a NaN, which is no number
  const float exact = max_lane(largest) / 127.0f;
  const f16 scale = to_f16(exact < 0x1p-24f ? 0x1p-24f : exact < 65504.0f ? exact : 65504.0f);
  alignas(64) int8_t q[128];
  for (int64_t k = 0; k < columns; k += lanes) {
    const F32 whole = round(div(load(source + k), splat(to_float(scale))));
    narrow_to_bytes(q + k, round_to_int(max(min(whole, splat(127.0f)), splat(-127.0f))));
  }
  for (int64_t k = 0; k < columns; k += 4) {
    uint32_t word;
    __builtin_memcpy(&word, q + k, sizeof word);
    group.words[k / 4 * quantized_rows + r] = word ^ 0x80808080u;
  }
  group.scales[r] = scale;
  return true;
}

template <typename T>
void pack_rows(Context& context, const Tensor& source, const QuantizedWeight& weight, int64_t offset) {
  const int64_t rows = source.shape[0];
  if (rows == 0) return;
  const int64_t first_panel = offset / quantized_rows;
  const int64_t panels = (offset + rows + quantized_rows - 1) / quantized_rows - first_panel;
  parallel(context, panels, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = first_panel + begin; i < first_panel + end; ++i) {
      const int64_t first = i * quantized_rows;
      const int64_t low = first > offset ? first : offset;
      const int64_t high = first + quantized_rows < offset + rows ? first + quantized_rows : offset + rows;
      for (int64_t g = 0; g < weight.groups; ++g) {
        const QuantizedGroup group = weight.at(i, g);
        for (int64_t n = low; n < high; ++n) {
          const T* row = source.row<T>(n - offset) + g * weight.group;
          if (!round_row(row, weight.group, group, n - first))
            require_finite(row, weight.group, n - offset, g * weight.group);
        }
        for (int64_t n = high; high == weight.rows && n < first + quantized_rows; ++n) group.scales[n - first] = {0};
      }
    }
  });
}

}  // namespace

void linear_int8(Context& context, const LinearInt8Args& args) {
  require_bf16("linear_int8", args.x);
  if (args.out.dtype == DType::f32) return linear_into<float>(context, args);
  linear_into<bf16>(context, args);
}

void linear_int8_pack(Context& context, const LinearInt8PackArgs& args) {
  const QuantizedWeight weight(args.weight);
  if (args.source.dtype == DType::bf16) return pack_rows<bf16>(context, args.source, weight, args.row_offset);
  if (args.source.dtype == DType::f16) return pack_rows<f16>(context, args.source, weight, args.row_offset);
  pack_rows<float>(context, args.source, weight, args.row_offset);
}

}  // namespace qwen2::cpu::QWEN2_SIMD
