#include "cuda/elementwise.h"
#include "ops/gather_rows/gather_rows.h"

namespace qwen2::cuda {
namespace {

constexpr int threads = 128;

// One block a row.
template <typename Word, typename Element>
__global__ void gather_rows_kernel(Rows<const Element> x, const int32_t* rows, int64_t tokens, int64_t hidden,
                                   Rows<Element> out, ErrorSlot outside) {
  const int64_t b = blockIdx.x;
  const int32_t row = rows[b];
  if (row < 0 || row >= tokens) {
    if (threadIdx.x == 0) report(outside, b, row, tokens);
    return;
  }
  const Word* from = reinterpret_cast<const Word*>(x.row(row));
  Word* to = reinterpret_cast<Word*>(out.row(b));
  const int64_t words = hidden * static_cast<int64_t>(sizeof(Element)) / static_cast<int64_t>(sizeof(Word));
  for (int64_t i = threadIdx.x; i < words; i += threads) to[i] = from[i];
}

template <typename Word, typename Element>
void gather(Context& context, const GatherRowsArgs& args) {
  launch(context, gather_rows_kernel<Word, Element>,
         {.blocks = static_cast<unsigned>(args.rows.shape[0]), .threads = threads}, rows_of<const Element>(args.x),
         args.rows.as<int32_t>(), args.x.shape[0], args.x.shape[1], rows_of<Element>(args.out),
         context.errors("rows[%lld] = %lld is outside the %lld rows of x"));
}

}  // namespace

void gather_rows(Context& context, const GatherRowsArgs& args) {
  const int64_t hidden = args.x.shape[1];
  if (args.rows.shape[0] == 0) return;
  if (args.x.dtype == DType::i32) return gather<int32_t, int32_t>(context, args);
  require_bf16("gather_rows", args.x);
  if (vectorizable(args.x, hidden) && vectorizable(args.out, hidden)) return gather<uint4, bf16>(context, args);
  gather<uint16_t, bf16>(context, args);
}

}  // namespace qwen2::cuda
