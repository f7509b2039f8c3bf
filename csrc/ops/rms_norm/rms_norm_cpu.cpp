#include <cmath>

#include "cpu/simd.h"
#include "ops/rms_norm/rms_norm.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

// Four accumulators hide the latency of the multiply-add.
float sum_of_squares(const bf16* x, int64_t size) {
  F32 acc[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * lanes <= size; i += 4 * lanes)
    for (int j = 0; j < 4; ++j) {
      const F32 v = load(x + i + j * lanes);
      acc[j] = fma(v, v, acc[j]);
    }
  for (; i < size; i += lanes) {
    const F32 v = load(x + i, static_cast<int>(size - i < lanes ? size - i : lanes));
    acc[0] = fma(v, v, acc[0]);
  }
  return sum(add(add(acc[0], acc[1]), add(acc[2], acc[3])));
}

}  // namespace

void rms_norm(Context& context, const RmsNormArgs& args) {
  require_bf16("rms_norm", args.x);
  const int64_t tokens = args.x.shape[0], hidden = args.x.shape[1];
  const float* weight = args.weight.as<float>();
  parallel(context, tokens, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const bf16* x = args.x.row<bf16>(t);
      bf16* out = args.out.row<bf16>(t);
      const float mean = sum_of_squares(x, hidden) / static_cast<float>(hidden);
      const F32 scale = splat(1.0f / std::sqrt(mean + args.eps));
      int64_t i = 0;
      for (; i + lanes <= hidden; i += lanes) store(out + i, mul(mul(load(x + i), scale), load(weight + i)));
      const int rest = static_cast<int>(hidden - i);
      if (rest > 0) store(out + i, mul(mul(load(x + i, rest), scale), load(weight + i, rest)), rest);
    }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
