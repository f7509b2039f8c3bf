#include "ops/linear_int4/linear_int4.h"
#include "reference/kernel.h"
#include "reference/quantized.h"

namespace qwen2::reference {
namespace {

template <typename T, typename Out>
void linear_into(const LinearInt4Args& args) {
  const QuantizedWeight weight(args.weight);
  for (int64_t t = 0; t < args.x.shape[0]; ++t)
    for (int64_t n = 0; n < args.weight.shape[0]; ++n) {
      double sum = dot(args.x.row<T>(t), weight, n);
      if (args.bias.present()) sum += args.bias.as<float>()[n];
      args.out.row<Out>(t)[n] = from_float<Out>(static_cast<float>(sum));
    }
}

}  // namespace

void linear_int4(const LinearInt4Args& args) {
  for_activation(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    if (args.out.dtype == DType::f32) return linear_into<T, float>(args);
    linear_into<T, T>(args);
  });
}

void linear_int4_pack(const LinearInt4PackArgs& args) {
  pack_int4(int4_source(args), QuantizedWeight(args.weight), args.row_offset);
}

}  // namespace qwen2::reference
