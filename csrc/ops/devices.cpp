#include "ops/devices.h"

#include <span>

#include "core/error.h"
#include "cpu/device.h"
#include "ops/cpu_kernels.h"
#include "ops/ops.h"
#include "ops/reference_kernels.h"
#include "reference/device.h"

namespace qwen2 {
namespace {

constexpr cpu::Simd levels[] = {cpu::Simd::avx512, cpu::Simd::avx2, cpu::Simd::scalar};

const DeviceApi* cpu_api(cpu::Simd level) {
  const auto make = [](cpu::Simd of) { return cpu::device_api(of, std::span(cpu_kernels(of), op_table().size())); };
  static const DeviceApi apis[] = {make(levels[0]), make(levels[1]), make(levels[2])};
  for (size_t i = 0; i < std::size(levels); ++i)
    if (levels[i] == level) return &apis[i];
  return nullptr;
}

cpu::Simd level_named(const std::string& variant) {
  if (variant.empty()) return cpu::best_level();
  for (cpu::Simd level : levels)
    if (variant == cpu::name_of(level)) return level;
  fail("invalid_argument", "simd must be 'scalar', 'avx2' or 'avx512', it is '%s'", variant.c_str());
}

}  // namespace

std::shared_ptr<Device> open_host_device(const std::string& name, int threads, const std::string& variant) {
  if (name == "reference") {
    static const DeviceApi api = reference::device_api(std::span(reference_kernels(), op_table().size()));
    return std::make_shared<Device>(name, &api, DeviceOptions{});
  }
  return std::make_shared<Device>(name, cpu_api(level_named(variant)), DeviceOptions{.index = 0, .threads = threads, .variant = nullptr});
}

std::vector<std::string> cpu_variants() {
  std::vector<std::string> names;
  for (cpu::Simd level : levels)
    if (cpu::supported(level)) names.push_back(cpu::name_of(level));
  return names;
}

}  // namespace qwen2
