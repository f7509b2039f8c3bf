#include "cuda/elementwise.h"
#include "ops/embedding/embedding.h"

namespace qwen2::cuda {
namespace {

constexpr int threads = 128;

// One block a token.
template <typename Word>
__global__ void embedding_kernel(const int32_t* ids, const bf16* table, int64_t vocabulary, int64_t hidden,
                                 Rows<bf16> out, int64_t table_stride, ErrorSlot outside) {
  const int64_t t = blockIdx.x;
  const int32_t id = ids[t];
  if (id < 0 || id >= vocabulary) {
    if (threadIdx.x == 0) report(outside, id, t, vocabulary);
    return;
  }
  const Word* from = reinterpret_cast<const Word*>(table + id * table_stride);
  Word* to = reinterpret_cast<Word*>(out.row(t));
  for (int64_t i = threadIdx.x; i < hidden * 2 / static_cast<int64_t>(sizeof(Word)); i += threads) to[i] = from[i];
}

}  // namespace

// A packed LM head is row-major here, like a plain table.
void embedding(Context& context, const EmbeddingArgs& args) {
  require_bf16("embedding", args.out);
  const int64_t tokens = args.ids.shape[0], hidden = args.table.shape[1];
  if (tokens == 0) return;
  const bool plain = args.table.layout == Layout::strided;
  const int64_t table_stride = plain ? args.table.strides[0] : hidden;
  const bool vectors = vectorizable(args.out, hidden) && hidden % 8 == 0 && table_stride % 8 == 0 &&
                       reinterpret_cast<uintptr_t>(args.table.data) % 16 == 0;
  launch(context, vectors ? embedding_kernel<uint4> : embedding_kernel<uint16_t>,
         {.blocks = static_cast<unsigned>(tokens), .threads = threads}, args.ids.as<int32_t>(),
         args.table.as<bf16>(), args.table.shape[0], hidden, rows_of<bf16>(args.out), table_stride,
         context.errors("token id %lld at row %lld is outside the vocabulary of %lld"));
}

}  // namespace qwen2::cuda
