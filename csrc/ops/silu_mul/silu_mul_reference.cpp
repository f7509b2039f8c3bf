#include <cmath>

#include "ops/silu_mul/silu_mul.h"
#include "reference/kernel.h"

namespace qwen2::reference {

void silu_mul(const SiluMulArgs& args) {
  for_activation(args.gate.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t t = 0; t < args.gate.shape[0]; ++t)
      for (int64_t i = 0; i < args.gate.shape[1]; ++i) {
        const double gate = to_float(args.gate.row<T>(t)[i]), up = to_float(args.up.row<T>(t)[i]);
        args.out.row<T>(t)[i] = from_float<T>(static_cast<float>(gate / (1 + std::exp(-gate)) * up));
      }
  });
}

}  // namespace qwen2::reference
