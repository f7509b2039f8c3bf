#include "ops/swiglu/swiglu.h"

#include "cpu/panel_output.h"
#include "cpu/panel_pack.h"
#include "cpu/panel_product.h"

namespace qwen2::cpu::QWEN2_SIMD {

void swiglu(Context& context, const SwigluArgs& args) {
  require_bf16("swiglu", args.x);
  multiply_panels(context, args.x, args.weight.as<bf16>(), args.weight.shape[0], SwigluOutput{args.out});
}

void swiglu_pack(Context& context, const SwigluPackArgs& args) {
  const int64_t intermediate = args.weight.shape[0] / 2;
  pack(context, args.source, args.weight.as<bf16>(), args.row_offset, intermediate, swiglu_rows,
       args.part * swiglu_rows);
}

}  // namespace qwen2::cpu::QWEN2_SIMD
