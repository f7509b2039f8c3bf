#include "cpu/norm.h"
#include "ops/rms_norm/rms_norm.h"

namespace qwen2::cpu::QWEN2_SIMD {

void rms_norm(Context& context, const RmsNormArgs& args) {
  require_bf16("rms_norm", args.x);
  const int64_t tokens = args.x.shape[0], hidden = args.x.shape[1];
  parallel(context, tokens, norm_piece, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      normalize_row(args.x.row<bf16>(t), args.weight.as<float>(), args.out.row<bf16>(t), hidden, args.eps);
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
