#include "cuda/elementwise.h"
#include "ops/gather_rows/gather_rows.h"

namespace qwen2::cuda {
namespace {

constexpr int threads = 128;

// One block a row.
template <typename Word>
__global__ void gather_rows_kernel(Rows<const bf16> x, const int32_t* rows, int64_t tokens, int64_t hidden,
                                   Rows<bf16> out, ErrorSlot outside) {
  const int64_t b = blockIdx.x;
  const int32_t row = rows[b];
  if (row < 0 || row >= tokens) {
    if (threadIdx.x == 0) report(outside, b, row, tokens);
    return;
  }
  const Word* from = reinterpret_cast<const Word*>(x.row(row));
  Word* to = reinterpret_cast<Word*>(out.row(b));
  for (int64_t i = threadIdx.x; i < hidden * 2 / static_cast<int64_t>(sizeof(Word)); i += threads) to[i] = from[i];
}

}  // namespace

void gather_rows(Context& context, const GatherRowsArgs& args) {
  require_bf16("gather_rows", args.x);
  const int64_t count = args.rows.shape[0], hidden = args.x.shape[1];
  if (count == 0) return;
  const bool vectors = vectorizable(args.x, hidden) && vectorizable(args.out, hidden);
  launch(context, vectors ? gather_rows_kernel<uint4> : gather_rows_kernel<uint16_t>,
         {.blocks = static_cast<unsigned>(count), .threads = threads}, rows_of<const bf16>(args.x),
         args.rows.as<int32_t>(), args.x.shape[0], hidden, rows_of<bf16>(args.out),
         context.errors("rows[%lld] = %lld is outside the %lld rows of x"));
}

}  // namespace qwen2::cuda
