#include "addon/cuda_library.h"

#include <dlfcn.h>

#include <cstdlib>

#include "core/error.h"
#include "ops/ops.h"

namespace qwen2::addon {
namespace {

constexpr const char* emulated = "cuda-emulated";

// The folder this library was loaded from.
std::string own_folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0) return ".";
  const std::string path = info.dli_fname;
  return path.substr(0, path.find_last_of('/'));
}

struct Library {
  const DeviceApi* api = nullptr;
  std::string reason;

  explicit Library(const std::string& file) {
    const std::string path = own_folder() + "/" + file;
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      reason = "its library can't be loaded: " + std::string(dlerror());
      return;
    }
    using GetApi = const DeviceApi* (*)();
    const auto get_api = reinterpret_cast<GetApi>(dlsym(library, "qwen2_device_api"));
    const DeviceApi* found = get_api ? get_api() : nullptr;
    if (found == nullptr || found->version != device_api_version || found->op_count != op_table().size()) {
      reason = path + " is of another version of qwen2-node; reinstall the package";
      return;
    }
    api = found;
  }
};

const Library& library_of(const std::string& name) {
  if (name == emulated) {
    static const Library library("libqwen2-cuda-emulated.so");
    return library;
  }
  static const Library library("libqwen2-cuda.so");
  return library;
}

// N of "cuda:N".
int index_of(const std::string& name) {
  const size_t colon = name.find(':');
  return colon == std::string::npos ? 0 : std::atoi(name.c_str() + colon + 1);
}

}  // namespace

bool is_cuda(const std::string& name) { return name.starts_with("cuda"); }

std::shared_ptr<Device> open_cuda_device(const std::string& name) {
  const Library& library = library_of(name);
  std::string reason = library.reason;
  if (library.api != nullptr) {
    try {
      const DeviceOptions options{.index = index_of(name), .threads = 0, .variant = nullptr};
      return std::make_shared<Device>(name, library.api, options);
    } catch (const Error& e) {
      reason = e.what();
    }
  }
  fail("device_unavailable", "device '%s' can't be used: %s", name.c_str(), reason.c_str());
}

}  // namespace qwen2::addon
