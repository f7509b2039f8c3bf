#include "cuda/elementwise.h"
#include "ops/linear_int4/linear_int4.h"

namespace qwen2::cuda {

void linear_int4(Context&, const LinearInt4Args&) { fail("unsupported", "linear_int4: not yet"); }

void linear_int4_pack(Context&, const LinearInt4PackArgs&) { fail("unsupported", "linear_int4_pack: not yet"); }

}  // namespace qwen2::cuda
