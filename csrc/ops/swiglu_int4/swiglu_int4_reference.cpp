#include <cmath>

#include "ops/swiglu_int4/swiglu_int4.h"
#include "reference/kernel.h"
#include "reference/quantized.h"

namespace qwen2::reference {

void swiglu_int4(const SwigluInt4Args& args) {
  const QuantizedWeight weight(args.weight);
  const int64_t I = args.out.shape[1];
  for_activation(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t t = 0; t < args.x.shape[0]; ++t)
      for (int64_t i = 0; i < I; ++i) {
        const double gate = dot(args.x.row<T>(t), weight, i), up = dot(args.x.row<T>(t), weight, I + i);
        args.out.row<T>(t)[i] = from_float<T>(static_cast<float>(gate / (1 + std::exp(-gate)) * up));
      }
  });
}

void swiglu_int4_pack(const SwigluInt4PackArgs& args) {
  const int64_t I = args.weight.shape[0] / 2;
  pack_int4(int4_source(args), QuantizedWeight(args.weight), args.part * I + args.row_offset);
}

}  // namespace qwen2::reference
