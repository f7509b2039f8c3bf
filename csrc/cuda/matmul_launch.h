// The table of matrix product kernels: what linear and swiglu launch.
#pragma once

#include "cuda/matmul_skinny.h"
#include "cuda/matmul_tiled.h"

namespace qwen2::cuda {

template <typename Finish>
void multiply(Context& context, const Tensor& x, const Tensor& weight, const Finish& finish, bool batch_invariant) {
  if (x.shape[0] == 0 || weight.shape[0] == 0) return;
  const Product product = product_of(x, weight);
  const auto plan_of = batch_invariant ? invariant_plan : matmul_plan;
  const MatmulPlan plan = plan_of(product.tokens, product.rows, product.K, context.device().multiprocessors);
  switch (plan.tile.kernel) {
    case MatmulKernel::skinny_16x8:
      return launch_skinny<SkinnyShape<1, 1>>(context, product, finish, plan);
    case MatmulKernel::skinny_32x16:
      return launch_skinny<SkinnyShape<2, 2>>(context, product, finish, plan);
    case MatmulKernel::skinny_32x32:
      return launch_skinny<SkinnyShape<2, 4>>(context, product, finish, plan);
    case MatmulKernel::tiled_64x64:
      return launch_tiled<TiledShape<64, 64, 64, 4, 2, 2>>(context, product, finish, plan);
    case MatmulKernel::tiled_64x64_deep:
      return launch_tiled<TiledShape<64, 64, 64, 5, 2, 2>>(context, product, finish, plan);
    case MatmulKernel::tiled_128x64:
      return launch_tiled<TiledShape<128, 64, 32, 4, 4, 2>>(context, product, finish, plan);
    case MatmulKernel::tiled_128x64_deep:
      return launch_tiled<TiledShape<128, 64, 32, 6, 4, 2>>(context, product, finish, plan);
    case MatmulKernel::tiled_128x128:
      return launch_tiled<TiledShape<128, 128, 32, 5, 4, 2>>(context, product, finish, plan);
    case MatmulKernel::walking_128x64:
      return launch_walking<TiledShape<128, 64, 32, 4, 4, 2>>(context, product, finish, plan);
  }
}

}  // namespace qwen2::cuda
