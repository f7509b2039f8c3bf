#include "ops/linear_int4/linear_int4.h"
#include "reference/quantized.h"

namespace qwen2::reference {

void linear_int4(const LinearInt4Args& args) { quantized_linear(args); }

void linear_int4_pack(const LinearInt4PackArgs& args) {
  pack_int4(int4_source(args), QuantizedWeight(args.weight), args.row_offset);
}

}  // namespace qwen2::reference
