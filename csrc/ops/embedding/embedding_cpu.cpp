#include "cpu/kernel.h"
#include "cpu/quantized.h"
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

// Row n of an int8 weight: its words, four columns each, lie quantized_rows words apart.
void unpack_row(const QuantizedWeight& weight, int64_t n, bf16* out) {
  const int64_t row = n % quantized_rows;
  for (int64_t g = 0; g < weight.groups; ++g) {
    const QuantizedGroup group = weight.at(n / quantized_rows, g);
    const float scale = to_float(group.scales[row]);
    for (int64_t k = 0; k < weight.group; ++k) {
      const uint32_t byte = group.words[k / 4 * quantized_rows + row] >> (k % 4 * 8) & 255u;
      *out++ = to_bf16(scale * static_cast<float>(static_cast<int>(byte) - int8_zero));
    }
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
      if (args.table.dtype == DType::int8) {
        unpack_row(QuantizedWeight(args.table), id, out);
      } else if (args.table.layout == Layout::linear_weight) {
        unpack_row(table, id, hidden, out);
      } else {
        __builtin_memcpy(out, table + id * args.table.strides[0], static_cast<size_t>(hidden) * sizeof(bf16));
      }
    }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
