// The table of kernels for quantized weights: what linear_int4, swiglu_int4 and linear_int8 launch.
#pragma once

#include "cuda/quantized_skinny.h"
#include "cuda/quantized_tiled.h"

namespace qwen2::cuda {

// All tokens by the family of few, at most 32 at a time.
template <typename Codec, int scale_groups, typename Finish>
void multiply_few(Context& context, QuantizedProduct product, Finish finish, const QuantizedParts& parts) {
  const DeviceFacts& device = context.device();
  const QuantizedSkinnyPlan plan = quantized_skinny_plan(product.tokens, parts, scale_groups, device.multiprocessors,
                                                         device.shared_bytes_per_block);
  if (plan.tokens == 0 || plan.tasks > Context::max_counters)
    fail("unsupported", "a quantized weight of %lld rows and %d columns is too large for this GPU",
         static_cast<long long>(parts.row_groups * 16), product.K);
  product.parts = parts.parts;
  product.turns = parts.turns;
  product.together = plan.together;
  for (int left = product.tokens; left > 0; left -= static_cast<int>(plan.tokens)) {
    product.tokens = left < plan.tokens ? left : static_cast<int>(plan.tokens);
    const auto run = [&]<int token_tiles>(std::integral_constant<int, token_tiles>) {
      launch_quantized_skinny<QuantizedSkinnyShape<Codec, scale_groups, token_tiles>>(context, product, finish, plan);
    };
    if (plan.token_tiles == 1) run(std::integral_constant<int, 1>());
    if (plan.token_tiles == 2) run(std::integral_constant<int, 2>());
    if constexpr (most_quantized_tokens(scale_groups) > 16)
      if (plan.token_tiles == 4) run(std::integral_constant<int, 4>());
    product.x += plan.tokens * product.x_stride;
    finish.out.data += plan.tokens * finish.out.stride;
  }
}

template <typename Codec, int scale_groups, typename Finish>
void multiply_by_group(Context& context, const QuantizedProduct& product, const Finish& finish,
                       const QuantizedLayout& layout, bool batch_invariant) {
  if (product.tokens > most_skinny_tokens && !batch_invariant)
    return launch_quantized_tiled<QuantizedTiledShape<Codec, scale_groups>>(context, product, finish);
  multiply_few<Codec, scale_groups>(context, product, finish, quantized_parts(layout, context.device().multiprocessors));
}

template <typename Codec, typename Finish>
void multiply_quantized(Context& context, const Tensor& x, const Tensor& weight, const Finish& finish,
                        bool batch_invariant) {
  if (x.shape[0] == 0 || weight.shape[0] == 0) return;
  const QuantizedLayout layout(weight);
  const QuantizedProduct product{x.as<const bf16>(), x.strides[0], quantized_weight(weight),
                                 static_cast<int>(x.shape[0]), static_cast<int>(x.shape[1])};
  if (layout.scale_groups == 1) return multiply_by_group<Codec, 1>(context, product, finish, layout, batch_invariant);
  multiply_by_group<Codec, 4>(context, product, finish, layout, batch_invariant);
}

}  // namespace qwen2::cuda
