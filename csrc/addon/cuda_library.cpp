#include "addon/cuda_library.h"

#include <dlfcn.h>

#include "ops/ops.h"

namespace qwen2::addon {
namespace {

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

  Library() {
    const std::string path = own_folder() + "/libqwen2-cuda.so";
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      reason = "the CUDA library can't be loaded: " + std::string(dlerror());
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

}  // namespace

const DeviceApi* cuda_device_api(std::string* reason) {
  static const Library library;
  *reason = library.reason;
  return library.api;
}

}  // namespace qwen2::addon
