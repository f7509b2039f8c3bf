#include "cpu/simd.h"
#include "ops/silu_mul/silu_mul.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

constexpr int64_t piece = 4096;  // columns, a multiple of lanes

F32 silu_mul(F32 gate, F32 up) { return mul(div(gate, add(splat(1.0f), exp(sub(zero(), gate)))), up); }

}  // namespace

void silu_mul(Context& context, const SiluMulArgs& args) {
  require_bf16("silu_mul", args.gate);
  const int64_t tokens = args.gate.shape[0], intermediate = args.gate.shape[1];
  const int64_t pieces = (intermediate + piece - 1) / piece;
  parallel(context, tokens * pieces, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t t = item / pieces, first = item % pieces * piece;
      const int64_t last = first + piece < intermediate ? first + piece : intermediate;
      const bf16 *gate = args.gate.row<bf16>(t), *up = args.up.row<bf16>(t);
      bf16* out = args.out.row<bf16>(t);
      int64_t i = first;
      for (; i + lanes <= last; i += lanes) store(out + i, silu_mul(load(gate + i), load(up + i)));
      if (const int rest = static_cast<int>(last - i); rest > 0)
        store(out + i, silu_mul(load(gate + i, rest), load(up + i, rest)), rest);
    }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
