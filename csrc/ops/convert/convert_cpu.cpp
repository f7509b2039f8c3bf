#include "cpu/kernel.h"
#include "ops/convert/convert.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

template <typename T>
void widen(const T* source, float* out, int64_t size) {
  for (int64_t i = 0; i < size; ++i) out[i] = to_float(source[i]);
}

}  // namespace

// Norm weights and biases: a few thousand elements, once at load.
void convert(Context&, const ConvertArgs& args) {
  const int64_t size = args.source.shape[0];
  float* out = args.out.as<float>();
  if (args.source.dtype == DType::bf16) {
    widen(args.source.as<bf16>(), out, size);
  } else if (args.source.dtype == DType::f16) {
    widen(args.source.as<f16>(), out, size);
  } else {
    widen(args.source.as<float>(), out, size);
  }
}

}  // namespace qwen2::cpu::QWEN2_SIMD
