#include "ops/linear/linear.h"
#include "reference/kernel.h"

namespace qwen2::reference {
namespace {

template <typename T, typename Out>
void linear_into(const LinearArgs& args) {
  const int64_t tokens = args.x.shape[0], K = args.x.shape[1], N = args.weight.shape[0];
  const bf16* weight = args.weight.as<bf16>();  // [N, K]
  for (int64_t t = 0; t < tokens; ++t) {
    const T* x = args.x.row<T>(t);
    for (int64_t n = 0; n < N; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < K; ++k) sum += static_cast<double>(to_float(x[k])) * to_float(weight[n * K + k]);
      if (args.bias.present()) sum += args.bias.as<float>()[n];
      args.out.row<Out>(t)[n] = from_float<Out>(static_cast<float>(sum));
    }
  }
}

}  // namespace

void linear(const LinearArgs& args) {
  for_activation(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    if (args.out.dtype == DType::f32) return linear_into<T, float>(args);
    linear_into<T, T>(args);
  });
}

// The reference layout is the checkpoint's: row-major.
void linear_pack(const LinearPackArgs& args) {
  const int64_t rows = args.source.shape[0], K = args.source.shape[1];
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = 0; k < K; ++k)
      args.weight.as<bf16>()[(args.row_offset + r) * K + k] =
          to_bf16(element(args.source, row_of(args.source, r), k));
}

}  // namespace qwen2::reference
