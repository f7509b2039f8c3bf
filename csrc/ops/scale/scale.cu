#include "cuda/elementwise.h"
#include "ops/scale/scale.h"

namespace qwen2::cuda {
namespace {

constexpr int threads = 256;

// Writes x.
__device__ inline void assign(float& out, float x) { out = x; }
__device__ inline void assign(bf16& out, float x) { store_float(&out, x); }
__device__ inline void assign(f16& out, float x) { out.bits = cvt_f16(x); }

template <typename From, typename To>
__global__ void __launch_bounds__(threads)
    scale_kernel(Rows<const From> source, const float* row_scales, const float* column_scales, Rows<To> out,
                 int64_t rows, int64_t columns, ErrorSlot not_finite) {
  for (int64_t i = global_thread(); i < rows * columns; i += all_threads()) {
    const int64_t r = i / columns, k = i % columns;
    float x = load_source(source.row(r) + k);
    if (row_scales != nullptr) x *= row_scales[r];
    if (column_scales != nullptr) x *= column_scales[k];
    assign(out.row(r)[k], x);
    if (!(fabsf(load_source(out.row(r) + k)) < INFINITY)) report(not_finite, r, k);
  }
}

template <typename From, typename To>
void scale_all(Context& context, const ScaleArgs& args, const char* not_finite) {
  const int64_t rows = args.source.shape[0], columns = args.source.shape[1];
  if (rows == 0) return;
  launch(context, scale_kernel<From, To>, {.blocks = blocks_for(rows * columns, threads), .threads = threads},
         rows_of<const From>(args.source), args.row_scales.as<float>(), args.column_scales.as<float>(),
         rows_of<To>(args.out), rows, columns, context.errors(not_finite));
}

template <typename From>
void scale_from(Context& context, const ScaleArgs& args) {
  if (args.out.dtype == DType::bf16)
    return scale_all<From, bf16>(context, args, "the number at row %lld, column %lld is not finite as bf16");
  if (args.out.dtype == DType::f16)
    return scale_all<From, f16>(context, args, "the number at row %lld, column %lld is not finite as f16");
  scale_all<From, float>(context, args, "the number at row %lld, column %lld is not finite as f32");
}

}  // namespace

void scale(Context& context, const ScaleArgs& args) {
  if (args.source.dtype == DType::bf16) return scale_from<bf16>(context, args);
  if (args.source.dtype == DType::f16) return scale_from<f16>(context, args);
  scale_from<float>(context, args);
}

}  // namespace qwen2::cuda
