#include "cpu/kernel.h"
#include "ops/embedding/embedding.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

// Row n of a packed weight: its column pairs lie panel_rows pairs apart.
void unpack_row(const bf16* weight, int64_t n, int64_t columns, bf16* out) {
  const bf16* pair = weight + n / panel_rows * panel_stride(columns) + n % panel_rows * 2;
  for (int64_t k = 0; k < columns; k += 2, pair += 2 * panel_rows) {
    out[k] = pair[0];
    if (k + 1 < columns) out[k + 1] = pair[1];
  }
}

}  // namespace

void embedding(Context& context, const EmbeddingArgs& args) {
  require_bf16("embedding", args.out);
  const int64_t tokens = args.ids.shape[0], vocabulary = args.table.shape[0], hidden = args.table.shape[1];
  const bf16* table = args.table.as<bf16>();
  parallel(context, tokens, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int32_t id = args.ids.as<int32_t>()[t];
      if (id < 0 || id >= vocabulary)
        fail("invalid_argument", "token id %d at row %lld is outside the vocabulary of %lld", id,
             static_cast<long long>(t), static_cast<long long>(vocabulary));
      bf16* out = args.out.row<bf16>(t);
      if (args.table.layout == Layout::linear_weight) {
        unpack_row(table, id, hidden, out);
      } else {
        __builtin_memcpy(out, table + id * args.table.strides[0], static_cast<size_t>(hidden) * sizeof(bf16));
      }
    }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
