#include "ops/linear/linear.h"

#include "cpu/panel_pack.h"
#include "cpu/panel_product.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

// out[0 … count) = acc + bias, rounded; bias may be null.
template <typename T>
void finish_row(const float* acc, const float* bias, T* out, int count) {
  for (int i = 0; i < count; i += lanes) {
    const int here = count - i < lanes ? count - i : lanes;
    F32 sum = load(acc + i);
    if (bias) sum = add(sum, load(bias + i, here));
    if (here == lanes) {
      store(out + i, sum);
    } else {
      store(out + i, sum, here);
    }
  }
}

template <typename T>
void linear_into(Context& context, const LinearArgs& args) {
  const int64_t rows = args.weight.shape[0];
  const float* bias = args.bias.present() ? args.bias.as<float>() : nullptr;
  multiply_panels(context, args.x, args.weight.as<bf16>(), rows,
                  [&](int64_t panel, int64_t first, int64_t tokens, const float* acc) {
                    const int64_t n = panel * panel_rows;
                    const int count = static_cast<int>(rows - n < panel_rows ? rows - n : panel_rows);
                    for (int64_t t = 0; t < tokens; ++t)
                      finish_row(acc + t * panel_rows, bias ? bias + n : nullptr, args.out.row<T>(first + t) + n, count);
                  });
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
