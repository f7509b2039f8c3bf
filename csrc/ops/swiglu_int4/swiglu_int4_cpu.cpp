#include "ops/swiglu_int4/swiglu_int4.h"

#include "cpu/int4_pack.h"
#include "cpu/panel_output.h"
#include "cpu/quantized_product.h"

namespace qwen2::cpu::QWEN2_SIMD {

void swiglu_int4(Context& context, const SwigluInt4Args& args) {
  require_bf16("swiglu_int4", args.x);
  const SwigluOutput output{args.out};
  if (args.exact) return multiply_quantized<ExactInt4>(context, args.x, args.weight, output);
  multiply_quantized<RoundedInt4>(context, args.x, args.weight, output);
}

void swiglu_int4_pack(Context& context, const SwigluInt4PackArgs& args) {
  const PanelRows rows{
      .total = args.weight.shape[0] / 2, .of_panel = swiglu_rows, .base = args.part * swiglu_rows};
  pack_int4(context, int4_source(args), QuantizedWeight(args.weight), args.row_offset, rows);
}

}  // namespace qwen2::cpu::QWEN2_SIMD
