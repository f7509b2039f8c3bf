#include "ops/add_rms_norm/add_rms_norm.h"
#include "ops/rms_norm/rms_norm.h"
#include "reference/kernel.h"

namespace qwen2::reference {

void rms_norm(const RmsNormArgs& args);

void add_rms_norm(const AddRmsNormArgs& args) {
  const int64_t tokens = args.x.shape[0], hidden = args.x.shape[1];
  for_activation(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t t = 0; t < tokens; ++t) {
      const T* x = args.x.row<T>(t);
      T* residual = args.residual.row<T>(t);
      for (int64_t i = 0; i < hidden; ++i) residual[i] = from_float<T>(to_float(residual[i]) + to_float(x[i]));
    }
  });
  rms_norm({.x = args.residual, .weight = args.weight, .out = args.out, .eps = args.eps});
}

}  // namespace qwen2::reference
