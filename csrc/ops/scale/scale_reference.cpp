#include <cmath>

#include "ops/scale/scale.h"
#include "reference/kernel.h"

namespace qwen2::reference {
namespace {

// Writes x in the dtype of the tensor, and returns what it became.
float round_into(const Tensor& t, void* row, int64_t i, float x) {
  if (t.dtype == DType::bf16) return to_float(static_cast<bf16*>(row)[i] = to_bf16(x));
  if (t.dtype == DType::f16) return to_float(static_cast<f16*>(row)[i] = to_f16(x));
  return static_cast<float*>(row)[i] = x;
}

}  // namespace

void scale(const ScaleArgs& args) {
  for (int64_t r = 0; r < args.source.shape[0]; ++r)
    for (int64_t k = 0; k < args.source.shape[1]; ++k) {
      float x = element(args.source, row_of(args.source, r), k);
      if (args.row_scales.present()) x *= args.row_scales.as<float>()[r];
      if (args.column_scales.present()) x *= args.column_scales.as<float>()[k];
      if (!std::isfinite(round_into(args.out, row_of(args.out, r), k, x)))
        fail("invalid_argument", "the number at row %lld, column %lld is not finite as %s", static_cast<long long>(r),
             static_cast<long long>(k), name_of(args.out.dtype));
    }
}

}  // namespace qwen2::reference
