#include "cuda/elementwise.h"
#include "ops/convert/convert.h"

namespace qwen2::cuda {
namespace {

constexpr int threads = 256;

template <typename From, typename To>
__global__ void convert_kernel(const From* source, To* out, int64_t size) {
  for (int64_t i = global_thread(); i < size; i += all_threads()) store_float(out + i, load_source(source + i));
}

template <typename From>
void convert_from(Context& context, const ConvertArgs& args) {
  const int64_t size = args.source.elements();
  if (size == 0) return;
  const Launch how{.blocks = blocks_for(size, threads), .threads = threads};
  if (args.out.dtype == DType::bf16)
    return launch(context, convert_kernel<From, bf16>, how, args.source.as<From>(), args.out.as<bf16>(), size);
  launch(context, convert_kernel<From, float>, how, args.source.as<From>(), args.out.as<float>(), size);
}

}  // namespace

void convert(Context& context, const ConvertArgs& args) {
  if (args.source.dtype == DType::bf16) return convert_from<bf16>(context, args);
  if (args.source.dtype == DType::f16) return convert_from<f16>(context, args);
  convert_from<float>(context, args);
}

}  // namespace qwen2::cuda
