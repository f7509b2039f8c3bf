#include "ops/linear/linear.h"

#include "cpu/panel_output.h"
#include "cpu/panel_pack.h"
#include "cpu/panel_product.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

template <typename T>
void linear_into(Context& context, const LinearArgs& args) {
  multiply_panels(context, args.x, args.weight.as<bf16>(), args.weight.shape[0],
                  LinearOutput<T>(args.out, args.bias));
}

}  // namespace

void linear(Context& context, const LinearArgs& args) {
  require_bf16("linear", args.x);
  if (args.out.dtype == DType::f32) return linear_into<float>(context, args);
  linear_into<bf16>(context, args);
}

void linear_pack(Context& context, const LinearPackArgs& args) {
  pack(context, args.source, args.weight.as<bf16>(), args.row_offset, args.weight.shape[0], panel_rows, 0);
}

}  // namespace qwen2::cpu::QWEN2_SIMD
