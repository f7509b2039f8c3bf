#include <cmath>

#include "cpu/kernel.h"
#include "ops/fill_random/fill_random.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

template <typename T>
void fill(Context& context, const FillRandomArgs& args, int64_t size) {
  const float spread = std::sqrt(3.0f) * args.std, mean = args.mean;
  const int32_t seed = args.seed;
  T* out = args.out.as<T>();
  parallel(context, size, 1 << 18, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const float value = random_value(seed, i, mean, spread);
      if constexpr (sizeof(T) == 2) {
        out[i] = to_bf16(value);
      } else {
        out[i] = value;
      }
    }
  });
}

}  // namespace

void fill_random(Context& context, const FillRandomArgs& args) {
  if (args.out.dtype == DType::f32) return fill<float>(context, args, args.out.elements());
  if (args.out.layout == Layout::strided) return fill<bf16>(context, args, args.out.elements());
  fill<bf16>(context, args, panels(args.out.shape[0]) * panel_stride(args.out.shape[1]));
}

}  // namespace qwen2::cpu::QWEN2_SIMD
