#include "cpu/kernel.h"
#include "ops/permute_columns/permute_columns.h"

namespace qwen2::cpu::QWEN2_SIMD {

void permute_columns(Context&, const PermuteColumnsArgs&) { fail("unsupported", "permute_columns: not yet"); }

}  // namespace qwen2::cpu::QWEN2_SIMD
