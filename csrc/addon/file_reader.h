// Reads a part of a file into a storage, off the JavaScript thread.
#pragma once

#include <napi.h>

#include <memory>

#include "core/stream.h"

namespace qwen2::addon {

struct FilePart {
  int fd;
  uint64_t offset, bytes;
};

// Calls `done` when all bytes are there; a file that ends early or can't be read is an io_error. Where the device has
// memory of its own they pass through staging memory and `stream`: parts are read while parts before them are copied.
void read_file(Napi::Env env, std::shared_ptr<Stream> stream, const FilePart& part, std::shared_ptr<Storage> to,
               uint64_t offset, Completion done);

}  // namespace qwen2::addon
