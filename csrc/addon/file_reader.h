// Reads a part of a file into a storage of a host device, off the JavaScript thread.
#pragma once

#include <napi.h>

#include <memory>

#include "core/device.h"

namespace qwen2::addon {

class Completions;

// Resolves when all bytes are there; a file that ends early or can't be read is an io_error.
Napi::Value read_file(Napi::Env env, Completions& completions, int fd, uint64_t file_offset, uint64_t bytes,
                      std::shared_ptr<Storage> to, uint64_t offset);

// Lets go of a storage off the JavaScript thread (unmapping gigabytes takes milliseconds); resolves when that is done.
Napi::Value release_storage(Napi::Env env, std::shared_ptr<Storage> storage);

}  // namespace qwen2::addon
