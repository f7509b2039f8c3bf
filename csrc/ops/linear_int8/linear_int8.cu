#include "cuda/elementwise.h"
#include "ops/linear_int8/linear_int8.h"

namespace qwen2::cuda {

void linear_int8(Context&, const LinearInt8Args&) { fail("unsupported", "linear_int8: not yet"); }

void linear_int8_pack(Context&, const LinearInt8PackArgs&) { fail("unsupported", "linear_int8_pack: not yet"); }

}  // namespace qwen2::cuda
