#include <cmath>

#include "cuda/elementwise.h"
#include "ops/fill_random/fill_random.h"

namespace qwen2::cuda {
namespace {

constexpr int threads = 256;

template <typename T>
__global__ void fill_random_kernel(T* out, int64_t size, int32_t seed, float mean, float spread) {
  for (int64_t i = global_thread(); i < size; i += all_threads())
    store_float(out + i, random_value(seed, i, mean, spread));
  // A linear that is launched behind this may read its weight before it waits.
  __threadfence();
}

}  // namespace

void fill_random(Context& context, const FillRandomArgs& args) {
  const float spread = std::sqrt(3.0f) * args.std;
  // A packed weight is filled with its padding.
  const int64_t rows = args.out.layout == Layout::strided ? 0 : (args.out.shape[0] + 15) / 16 * 16;
  const int64_t size = args.out.layout == Layout::strided ? args.out.elements() : rows * args.out.shape[1];
  if (size == 0) return;
  const Launch how{.blocks = blocks_for(size, threads), .threads = threads};
  if (args.out.dtype == DType::f32)
    return launch(context, fill_random_kernel<float>, how, args.out.as<float>(), size, args.seed, args.mean, spread);
  launch(context, fill_random_kernel<bf16>, how, args.out.as<bf16>(), size, args.seed, args.mean, spread);
}

}  // namespace qwen2::cuda
