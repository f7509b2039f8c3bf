#include "cpu/kernel.h"
#include "ops/quantize_int4/quantize_int4.h"

namespace qwen2::cpu::QWEN2_SIMD {

void quantize_int4(Context&, const QuantizeInt4Args&) { fail("unsupported", "quantize_int4: not yet"); }

}  // namespace qwen2::cpu::QWEN2_SIMD
