#include "ops/reference_kernels.h"

#include "core/guard.h"
#include "ops/ops.h"

namespace qwen2::reference {
#define QWEN2_OP(name, Args) void name(const Args& args);
#include "ops/ops.def"
#undef QWEN2_OP
}  // namespace qwen2::reference

namespace qwen2 {
namespace {

template <typename Args, void (*run)(const Args&)>
int32_t kernel(void*, const void* args, uint32_t, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] { run(*static_cast<const Args*>(args)); });
}

}  // namespace

const Kernel* reference_kernels() {
#define QWEN2_OP(name, Args) kernel<Args, reference::name>,
  static constexpr Kernel kernels[] = {
#include "ops/ops.def"
  };
#undef QWEN2_OP
  return kernels;
}

}  // namespace qwen2
