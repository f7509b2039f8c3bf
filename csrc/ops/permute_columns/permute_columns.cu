#include "cuda/elementwise.h"
#include "ops/permute_columns/permute_columns.h"

namespace qwen2::cuda {
namespace {

constexpr int threads = 256;

// One thread a column of a token.
__global__ void __launch_bounds__(threads)
    permute_columns_kernel(Rows<const uint16_t> x, const int32_t* columns, Rows<uint16_t> out, int64_t tokens, int64_t K,
                           ErrorSlot outside) {
  griddepcontrol_wait();
  for (int64_t i = global_thread(); i < tokens * K; i += all_threads()) {
    const int64_t t = i / K, j = i % K;
    const int32_t column = columns[j];
    if (column < 0 || column >= K) {
      report(outside, j, column, K);
    } else {
      out.row(t)[j] = x.row(t)[column];
    }
  }
}

}  // namespace

void permute_columns(Context& context, const PermuteColumnsArgs& args) {
  require_bf16("permute_columns", args.x);
  const int64_t tokens = args.x.shape[0], K = args.x.shape[1];
  if (tokens == 0) return;
  launch(context, permute_columns_kernel,
         {.blocks = blocks_for(tokens * K, threads), .threads = threads, .dependent = true},
         rows_of<const uint16_t>(args.x), args.columns.as<int32_t>(), rows_of<uint16_t>(args.out), tokens, K,
         context.errors("columns[%lld] = %lld is outside the %lld columns of x"));
}

}  // namespace qwen2::cuda
