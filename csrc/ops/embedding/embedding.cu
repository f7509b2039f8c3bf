#include "cuda/elementwise.h"
#include "cuda/quantized_codec.h"
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

__global__ void embedding_int8_kernel(const int32_t* ids, QuantizedWeight table, int64_t vocabulary, int64_t hidden,
                                      int scale_groups, Rows<bf16> out, ErrorSlot outside) {
  const int64_t t = blockIdx.x;
  const int32_t id = ids[t];
  if (id < 0 || id >= vocabulary) {
    if (threadIdx.x == 0) report(outside, id, t, vocabulary);
    return;
  }
  const int64_t first_unit = int64_t{id} / 16 * table.units;
  for (int64_t i = threadIdx.x; i < hidden; i += threads) {
    const int64_t unit = first_unit + i / quantized_unit;
    const int row = id % 16, column = static_cast<int>(i % quantized_unit);
    const int64_t group = (unit * 8 + row % 8) * scale_groups + column * scale_groups / quantized_unit;
    const int q = *int8_at(table.weights, unit, row, column) - Int8Codec::zero;
    store_float(out.row(t) + i, cvt_float(table.scales[group * 2 + row / 8]) * static_cast<float>(q));
  }
}

constexpr const char* outside_message = "token id %lld at row %lld is outside the vocabulary of %lld";

}  // namespace

// A packed LM head of bf16 is row-major here, like a plain table.
void embedding(Context& context, const EmbeddingArgs& args) {
  require_bf16("embedding", args.out);
  const int64_t tokens = args.ids.shape[0], hidden = args.table.shape[1];
  if (tokens == 0) return;
  if (args.table.dtype == DType::int8)
    return launch(context, embedding_int8_kernel, {.blocks = static_cast<unsigned>(tokens), .threads = threads},
                  args.ids.as<int32_t>(), quantized_weight(args.table), args.table.shape[0], hidden,
                  QuantizedLayout(args.table).scale_groups, rows_of<bf16>(args.out), context.errors(outside_message));
  const bool plain = args.table.layout == Layout::strided;
  const int64_t table_stride = plain ? args.table.strides[0] : hidden;
  const bool vectors = vectorizable(args.out, hidden) && hidden % 8 == 0 && table_stride % 8 == 0 &&
                       reinterpret_cast<uintptr_t>(args.table.data) % 16 == 0;
  launch(context, vectors ? embedding_kernel<uint4> : embedding_kernel<uint16_t>,
         {.blocks = static_cast<unsigned>(tokens), .threads = threads}, args.ids.as<int32_t>(),
         args.table.as<bf16>(), args.table.shape[0], hidden, rows_of<bf16>(args.out), table_stride,
         context.errors(outside_message));
}

}  // namespace qwen2::cuda
