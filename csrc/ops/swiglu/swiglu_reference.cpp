#include <cmath>

#include "ops/swiglu/swiglu.h"
#include "reference/kernel.h"

namespace qwen2::reference {

void swiglu(const SwigluArgs& args) {
  const int64_t tokens = args.x.shape[0], K = args.x.shape[1], I = args.out.shape[1];
  const bf16* gate = args.weight.as<bf16>();  // [I, K]
  const bf16* up = gate + I * K;              // [I, K]
  for_activation(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t t = 0; t < tokens; ++t) {
      const T* x = args.x.row<T>(t);
      for (int64_t i = 0; i < I; ++i) {
        double g = 0, u = 0;
        for (int64_t k = 0; k < K; ++k) {
          g += static_cast<double>(to_float(x[k])) * to_float(gate[i * K + k]);
          u += static_cast<double>(to_float(x[k])) * to_float(up[i * K + k]);
        }
        args.out.row<T>(t)[i] = from_float<T>(static_cast<float>(g / (1 + std::exp(-g)) * u));
      }
    }
  });
}

// Gate rows, then up rows, as in the checkpoint.
void swiglu_pack(const SwigluPackArgs& args) {
  const int64_t rows = args.source.shape[0], K = args.source.shape[1], I = args.weight.shape[0] / 2;
  bf16* part = args.weight.as<bf16>() + args.part * I * K;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = 0; k < K; ++k)
      part[(args.row_offset + r) * K + k] = to_bf16(element(args.source, row_of(args.source, r), k));
}

}  // namespace qwen2::reference
