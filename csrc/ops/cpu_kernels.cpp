#include "ops/cpu_kernels.h"

#include "core/guard.h"
#include "ops/ops.h"

// Each level's functions have the operation's name, in the level's namespace.
#define QWEN2_OP(name, Args) void name(Context& context, const Args& args);
#define QWEN2_LEVEL(level) \
  namespace qwen2::cpu::level {
QWEN2_LEVEL(scalar)
#include "ops/ops.def"
}
#if defined(__x86_64__)
QWEN2_LEVEL(avx2)
#include "ops/ops.def"
}
QWEN2_LEVEL(avx512)
#include "ops/ops.def"
}
#endif
#undef QWEN2_OP

namespace qwen2 {
namespace {

template <typename Args, void (*run)(cpu::Context&, const Args&)>
int32_t kernel(void* context, const void* args, uint32_t, char* error, uint32_t error_size) {
  return guarded(error, error_size,
                 [&] { run(*static_cast<cpu::Context*>(context), *static_cast<const Args*>(args)); });
}

}  // namespace

const Kernel* cpu_kernels(cpu::Simd level) {
#define QWEN2_OP(name, Args) kernel<Args, cpu::QWEN2_SIMD::name>,
#define QWEN2_SIMD scalar
  static constexpr Kernel scalar_kernels[] = {
#include "ops/ops.def"
  };
#undef QWEN2_SIMD
#if defined(__x86_64__)
#define QWEN2_SIMD avx2
  static constexpr Kernel avx2_kernels[] = {
#include "ops/ops.def"
  };
#undef QWEN2_SIMD
#define QWEN2_SIMD avx512
  static constexpr Kernel avx512_kernels[] = {
#include "ops/ops.def"
  };
#undef QWEN2_SIMD
  if (level == cpu::Simd::avx512) return avx512_kernels;
  if (level == cpu::Simd::avx2) return avx2_kernels;
#endif
#undef QWEN2_OP
  return scalar_kernels;
}

}  // namespace qwen2
