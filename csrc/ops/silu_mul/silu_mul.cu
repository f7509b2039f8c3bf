#include "cuda/elementwise.h"
#include "ops/silu_mul/silu_mul.h"

namespace qwen2::cuda {

void silu_mul(Context&, const SiluMulArgs&) { fail("unsupported", "silu_mul: not yet"); }

}  // namespace qwen2::cuda
