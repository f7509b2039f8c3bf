#include <cmath>

#include "ops/rms_norm/rms_norm.h"
#include "reference/kernel.h"

namespace qwen2::reference {

void rms_norm(const RmsNormArgs& args) {
  const int64_t tokens = args.x.shape[0], hidden = args.x.shape[1];
  const float* weight = args.weight.as<float>();
  for_activation(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t t = 0; t < tokens; ++t) {
      const T* x = args.x.row<T>(t);
      T* out = args.out.row<T>(t);
      double squares = 0;
      for (int64_t i = 0; i < hidden; ++i) squares += static_cast<double>(to_float(x[i])) * to_float(x[i]);
      const double scale = 1 / std::sqrt(squares / static_cast<double>(hidden) + args.eps);
      for (int64_t i = 0; i < hidden; ++i)
        out[i] = from_float<T>(static_cast<float>(to_float(x[i]) * scale * weight[i]));
    }
  });
}

}  // namespace qwen2::reference
