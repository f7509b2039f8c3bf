#include "cpu/kernel.h"
#include "ops/convert/convert.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

inline void assign(float& out, float value) { out = value; }
inline void assign(bf16& out, float value) { out = to_bf16(value); }

template <typename From, typename To>
void convert_all(Context& context, const ConvertArgs& args) {
  const From* source = args.source.as<From>();
  To* out = args.out.as<To>();
  parallel(context, args.source.elements(), 1 << 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) assign(out[i], to_float(source[i]));
  });
}

template <typename From>
void convert_from(Context& context, const ConvertArgs& args) {
  if (args.out.dtype == DType::bf16) return convert_all<From, bf16>(context, args);
  convert_all<From, float>(context, args);
}

}  // namespace

void convert(Context& context, const ConvertArgs& args) {
  if (args.source.dtype == DType::bf16) return convert_from<bf16>(context, args);
  if (args.source.dtype == DType::f16) return convert_from<f16>(context, args);
  convert_from<float>(context, args);
}

}  // namespace qwen2::cpu::QWEN2_SIMD
