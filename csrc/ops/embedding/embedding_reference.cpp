#include "ops/embedding/embedding.h"
#include "reference/kernel.h"
#include "reference/quantized.h"

namespace qwen2::reference {

// A packed weight is row-major here, so both kinds of table read alike.
void embedding(const EmbeddingArgs& args) {
  const int64_t tokens = args.ids.shape[0], vocabulary = args.table.shape[0], hidden = args.table.shape[1];
  const int64_t stride = args.table.layout == Layout::strided ? args.table.strides[0] : hidden;
  for_activation(args.out.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t t = 0; t < tokens; ++t) {
      const int32_t id = args.ids.as<int32_t>()[t];
      if (id < 0 || id >= vocabulary)
        fail("invalid_argument", "token id %d at row %lld is outside the vocabulary of %lld", id,
             static_cast<long long>(t), static_cast<long long>(vocabulary));
      T* out = args.out.row<T>(t);
      if (args.table.dtype == DType::int8) {
        const QuantizedWeight table(args.table);
        for (int64_t i = 0; i < hidden; ++i) out[i] = from_float<T>(static_cast<float>(table.element(id, i)));
        continue;
      }
      const bf16* row = args.table.as<bf16>() + id * stride;
      for (int64_t i = 0; i < hidden; ++i) out[i] = from_float<T>(to_float(row[i]));
    }
  });
}

}  // namespace qwen2::reference
