#include "cpu/norm.h"
#include "ops/add_rms_norm/add_rms_norm.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

// residual += x, rounded
void add_row(const bf16* x, bf16* residual, int64_t size) {
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) store(residual + i, add(load(residual + i), load(x + i)));
  const int rest = static_cast<int>(size - i);
  if (rest > 0) store(residual + i, add(load(residual + i, rest), load(x + i, rest)), rest);
}

}  // namespace

void add_rms_norm(Context& context, const AddRmsNormArgs& args) {
  require_bf16("add_rms_norm", args.x);
  const int64_t tokens = args.x.shape[0], hidden = args.x.shape[1];
  parallel(context, tokens, norm_piece, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      bf16* residual = args.residual.row<bf16>(t);
      add_row(args.x.row<bf16>(t), residual, hidden);
      normalize_row(residual, args.weight.as<float>(), args.out.row<bf16>(t), hidden, args.eps);
    }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
