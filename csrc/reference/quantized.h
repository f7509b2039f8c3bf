// The layout of quantized weights on `reference`: a byte an element, row-major [N, K], then the scales f16[N, G], then the
// zeros u8[N, G]. Gate rows, then up rows, for swiglu_weight.
#pragma once

#include "core/error.h"
#include "core/int4.h"
#include "reference/kernel.h"

namespace qwen2::reference {

struct QuantizedWeight {
  uint8_t* q;     // [N, K]
  f16* scales;    // [N, G]
  uint8_t* zeros;  // [N, G]
  int64_t columns, groups, group;

  explicit QuantizedWeight(const Tensor& weight)
      : q(weight.as<uint8_t>()), columns(weight.shape[1]), groups(columns / weight.group), group(weight.group) {
    scales = reinterpret_cast<f16*>(q + weight.shape[0] * columns);
    zeros = reinterpret_cast<uint8_t*>(scales + weight.shape[0] * groups);
  }

  double element(int64_t n, int64_t k) const {
    const int64_t at = n * groups + k / group;
    return static_cast<double>(to_float(scales[at])) * (q[n * columns + k] - zeros[at]);
  }
};

// Rows of a checkpoint become rows first_row … of the weight.
inline void pack_int4(const Int4Source& source, const QuantizedWeight& weight, int64_t first_row) {
  for (int64_t j = 0; source.columns.present() && j < weight.columns; ++j)
    if (const int32_t column = source.columns.as<int32_t>()[j]; column < 0 || column >= weight.columns)
      fail("invalid_argument", "columns[%lld] = %d is outside the %lld columns of the weight", static_cast<long long>(j),
           column, static_cast<long long>(weight.columns));
  for (int64_t r = 0; r < source.rows(); ++r) {
    const int64_t n = first_row + r;
    for (int64_t k = 0; k < weight.columns; ++k) weight.q[n * weight.columns + k] = static_cast<uint8_t>(source.q(r, k));
    for (int64_t g = 0; g < weight.groups; ++g) {
      const int64_t from = g * source.groups() / weight.groups;
      weight.scales[n * weight.groups + g] = source.scale(r, from);
      weight.zeros[n * weight.groups + g] = static_cast<uint8_t>(source.zero(r, from));
    }
  }
}

// An int8 q is kept as q + 128, with 128 for its zero.
constexpr int int8_zero = 128;

template <typename T>
double dot(const T* x, const QuantizedWeight& weight, int64_t n) {
  double sum = 0;
  for (int64_t k = 0; k < weight.columns; ++k) sum += to_float(x[k]) * weight.element(n, k);
  return sum;
}

template <typename T, typename Out, typename Args>
void quantized_linear_into(const Args& args) {
  const QuantizedWeight weight(args.weight);
  for (int64_t t = 0; t < args.x.shape[0]; ++t)
    for (int64_t n = 0; n < args.weight.shape[0]; ++n) {
      double sum = dot(args.x.template row<T>(t), weight, n);
      if (args.bias.present()) sum += args.bias.template as<float>()[n];
      args.out.template row<Out>(t)[n] = from_float<Out>(static_cast<float>(sum));
    }
}

// linear_int4 and linear_int8.
template <typename Args>
void quantized_linear(const Args& args) {
  for_activation(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    if (args.out.dtype == DType::f32) return quantized_linear_into<T, float>(args);
    quantized_linear_into<T, T>(args);
  });
}

}  // namespace qwen2::reference
