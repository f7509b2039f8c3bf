#include "ops/swiglu/swiglu.h"

#include "cpu/panel_pack.h"
#include "cpu/panel_product.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

// A panel holds 32 rows of gate, then the 32 rows of up that they meet.
constexpr int64_t group = panel_rows / 2;

// out[0 … count) = silu(gate) · up
void finish_row(const float* acc, bf16* out, int count) {
  for (int i = 0; i < count; i += lanes) {
    const F32 gate = load(acc + i), up = load(acc + group + i);
    const F32 result = div(mul(gate, up), add(splat(1.0f), exp(sub(zero(), gate))));
    const int here = count - i < lanes ? count - i : lanes;
    if (here == lanes) {
      store(out + i, result);
    } else {
      store(out + i, result, here);
    }
  }
}

}  // namespace

void swiglu(Context& context, const SwigluArgs& args) {
  require_bf16("swiglu", args.x);
  const int64_t intermediate = args.out.shape[1];
  multiply_panels(context, args.x, args.weight.as<bf16>(), args.weight.shape[0],
                  [&](int64_t panel, int64_t first, int64_t tokens, const float* acc) {
                    const int64_t i = panel * group;
                    const int count = static_cast<int>(intermediate - i < group ? intermediate - i : group);
                    for (int64_t t = 0; t < tokens; ++t)
                      finish_row(acc + t * panel_rows, args.out.row<bf16>(first + t) + i, count);
                  });
}

void swiglu_pack(Context& context, const SwigluPackArgs& args) {
  const int64_t intermediate = args.weight.shape[0] / 2;
  pack(context, args.source, args.weight.as<bf16>(), args.row_offset, intermediate, group, args.part * group);
}

}  // namespace qwen2::cpu::QWEN2_SIMD
