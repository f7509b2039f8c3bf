// What libqwen2-cuda.so exports: the device with its kernels.
#include "core/guard.h"
#include "cuda/context.h"
#include "cuda/device.h"
#include "ops/ops.h"

namespace qwen2::cuda {
#define QWEN2_OP(name, Args) void name(Context& context, const Args& args);
#include "ops/ops.def"
#undef QWEN2_OP
}  // namespace qwen2::cuda

namespace qwen2 {
namespace {

template <typename Args, void (*run)(cuda::Context&, const Args&)>
int32_t kernel(void* context, const void* args, uint32_t, char* error, uint32_t error_size) {
  return guarded(error, error_size,
                 [&] { run(*static_cast<cuda::Context*>(context), *static_cast<const Args*>(args)); });
}

constexpr Kernel kernels[] = {
#define QWEN2_OP(name, Args) kernel<Args, cuda::name>,
#include "ops/ops.def"
#undef QWEN2_OP
};

}  // namespace
}  // namespace qwen2

extern "C" __attribute__((visibility("default"))) const qwen2::DeviceApi* qwen2_device_api() {
  static const qwen2::DeviceApi api = qwen2::cuda::device_api(qwen2::kernels);
  return &api;
}
