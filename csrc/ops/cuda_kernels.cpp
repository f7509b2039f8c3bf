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

// Contracts are checked on the other side; what remains of an operation here is its name and its fields, for messages.
template <typename Args>
constexpr OpInfo info_of(const char* name) {
  return {name, sizeof(Args), fields_of(static_cast<const Args*>(nullptr)), nullptr};
}

#define QWEN2_OP(name, Args) constexpr OpInfo name##_info = info_of<Args>(#name);
#include "ops/ops.def"
#undef QWEN2_OP

template <typename Args, void (*run)(cuda::Context&, const Args&), const OpInfo& info>
int32_t kernel(void* handle, const void* args, uint32_t, char* error, uint32_t error_size) {
  return guarded(error, error_size, [&] {
    cuda::Context& context = *static_cast<cuda::Context*>(handle);
    context.calls().begin(info, args);
    run(context, *static_cast<const Args*>(args));
  });
}

constexpr Kernel kernels[] = {
#define QWEN2_OP(name, Args) kernel<Args, cuda::name, name##_info>,
#include "ops/ops.def"
#undef QWEN2_OP
};

}  // namespace
}  // namespace qwen2

extern "C" __attribute__((visibility("default"))) const qwen2::DeviceApi* qwen2_device_api() {
  static const qwen2::DeviceApi api = qwen2::cuda::device_api(qwen2::kernels);
  return &api;
}
