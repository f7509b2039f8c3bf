#include "cpu/kernel.h"
#include "ops/scale/scale.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

constexpr int64_t piece = 4096;  // columns

// Writes x, and returns what it became.
inline float assign(float& out, float x) { return out = x; }
inline float assign(bf16& out, float x) { return to_float(out = to_bf16(x)); }
inline float assign(f16& out, float x) { return to_float(out = to_f16(x)); }

template <typename From, typename To>
void scale_all(Context& context, const ScaleArgs& args) {
  const int64_t columns = args.source.shape[1], pieces = (columns + piece - 1) / piece;
  const float* row_scales = args.row_scales.present() ? args.row_scales.as<float>() : nullptr;
  const float* column_scales = args.column_scales.present() ? args.column_scales.as<float>() : nullptr;
  parallel(context, args.source.shape[0] * pieces, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t r = item / pieces, first = item % pieces * piece;
      const int64_t last = first + piece < columns ? first + piece : columns;
      const From* source = args.source.row<From>(r);
      To* out = args.out.row<To>(r);
      const float row_scale = row_scales != nullptr ? row_scales[r] : 1.0f;
      for (int64_t k = first; k < last; ++k) {
        const float x = to_float(source[k]) * row_scale;
        if (!__builtin_isfinite(assign(out[k], column_scales != nullptr ? x * column_scales[k] : x)))
          fail("invalid_argument", "the number at row %lld, column %lld is not finite as %s", static_cast<long long>(r),
               static_cast<long long>(k), name_of(args.out.dtype));
      }
    }
  });
}

template <typename From>
void scale_from(Context& context, const ScaleArgs& args) {
  if (args.out.dtype == DType::bf16) return scale_all<From, bf16>(context, args);
  if (args.out.dtype == DType::f16) return scale_all<From, f16>(context, args);
  scale_all<From, float>(context, args);
}

}  // namespace

void scale(Context& context, const ScaleArgs& args) {
  if (args.source.dtype == DType::bf16) return scale_from<bf16>(context, args);
  if (args.source.dtype == DType::f16) return scale_from<f16>(context, args);
  scale_from<float>(context, args);
}

}  // namespace qwen2::cpu::QWEN2_SIMD
