#include "ops/linear_int4/linear_int4.h"

#include "cpu/int4_pack.h"
#include "cpu/panel_output.h"
#include "cpu/quantized_product.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

template <typename T>
void linear_into(Context& context, const LinearInt4Args& args) {
  const LinearOutput<T> output(args.out, args.bias);
  if (args.exact) return multiply_quantized<ExactInt4>(context, args.x, args.weight, output);
  multiply_quantized<RoundedInt4>(context, args.x, args.weight, output);
}

}  // namespace

void linear_int4(Context& context, const LinearInt4Args& args) {
  require_bf16("linear_int4", args.x);
  if (args.out.dtype == DType::f32) return linear_into<float>(context, args);
  linear_into<bf16>(context, args);
}

void linear_int4_pack(Context& context, const LinearInt4PackArgs& args) {
  const PanelRows rows{.total = args.weight.shape[0], .of_panel = panel_rows, .base = 0};
  pack_int4(context, int4_source(args), QuantizedWeight(args.weight), args.row_offset, rows);
}

}  // namespace qwen2::cpu::QWEN2_SIMD
