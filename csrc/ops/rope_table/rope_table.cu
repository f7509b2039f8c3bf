#include "cuda/elementwise.h"
#include "ops/rope_table/rope_table.h"

namespace qwen2::cuda {
namespace {

constexpr int threads = 128;

// In double: an angle may be as large as the context is long, and T · D/2 of them once a step are little.
__global__ void rope_table_kernel(const int32_t* positions, const float* frequencies, Rows<float> table,
                                  int64_t tokens, int64_t half, float scale) {
  for (int64_t i = global_thread(); i < tokens * half; i += all_threads()) {
    const int64_t t = i / half, j = i % half;
    const double angle = static_cast<double>(static_cast<float>(positions[t]) * frequencies[j]);
    table.row(t)[j] = static_cast<float>(cos(angle) * scale);
    table.row(t)[half + j] = static_cast<float>(sin(angle) * scale);
  }
}

}  // namespace

void rope_table(Context& context, const RopeTableArgs& args) {
  const int64_t tokens = args.positions.shape[0], half = args.frequencies.shape[0];
  if (tokens == 0) return;
  launch(context, rope_table_kernel, {.blocks = blocks_for(tokens * half, threads), .threads = threads},
         args.positions.as<int32_t>(), args.frequencies.as<float>(), rows_of<float>(args.table), tokens, half,
         args.scale);
}

}  // namespace qwen2::cuda
