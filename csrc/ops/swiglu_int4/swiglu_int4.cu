#include "cuda/elementwise.h"
#include "ops/swiglu_int4/swiglu_int4.h"

namespace qwen2::cuda {

void swiglu_int4(Context&, const SwigluInt4Args&) { fail("unsupported", "swiglu_int4: not yet"); }

void swiglu_int4_pack(Context&, const SwigluInt4PackArgs&) { fail("unsupported", "swiglu_int4_pack: not yet"); }

}  // namespace qwen2::cuda
