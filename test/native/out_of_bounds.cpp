// A kernel that is told of more memory than there is: `out_of_bounds <device> <SIMD level> <elements too many>`. Linked
// to the sanitized library, it must end in a report of AddressSanitizer, unless it is told the truth.

#include <cstdio>
#include <cstdlib>

#include "core/guard.h"
#include "ops/devices.h"
#include "ops/ops.h"

using namespace qwen2;

namespace {

constexpr int64_t size = 37;

Tensor vector_of(const Storage& storage, int64_t elements) {
  return {.data = storage.data(),
          .bytes = static_cast<int64_t>(storage.bytes()),
          .dtype = DType::f32,
          .layout = Layout::strided,
          .rank = 1,
          .group = 0,
          .shape = {elements},
          .strides = {1}};
}

}  // namespace

int main(int, char** arguments) {
  const int64_t excess = std::atoi(arguments[3]);
  const auto device = open_host_device(arguments[1], 1, arguments[2]);
  const Storage source(device, (size + 8) * sizeof(float)), out(device, size * sizeof(float));
  void* context;
  call(device->api().create_context, device->handle(), &context);
  const FillRandomArgs fill{.out = vector_of(source, size + 8), .seed = 1, .mean = 0, .std = 1};
  const ConvertArgs convert{.source = vector_of(source, size + excess), .out = vector_of(out, size + excess)};
  const Kernel* kernels = device->api().kernels;
  call(kernels[static_cast<int>(OpId::fill_random)], context, static_cast<const void*>(&fill),
       static_cast<uint32_t>(sizeof fill));
  call(kernels[static_cast<int>(OpId::convert)], context, static_cast<const void*>(&convert),
       static_cast<uint32_t>(sizeof convert));
  device->api().destroy_context(context);
  std::puts("nothing was noticed");
}
