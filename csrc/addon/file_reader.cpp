#include "addon/file_reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "addon/background.h"

namespace qwen2::addon {
namespace {

void read_all(const FilePart& part, char* to) {
  uint64_t done = 0;
  while (done < part.bytes) {
    // Linux reads at most 2 GiB at a time.
    const size_t piece = std::min<uint64_t>(part.bytes - done, 1u << 30);
    const ssize_t count = pread(part.fd, to + done, piece, static_cast<off_t>(part.offset + done));
    if (count > 0) {
      done += static_cast<uint64_t>(count);
    } else if (count == 0) {
      fail("io_error", "the file ended at byte %llu while it was read; %llu more bytes were expected",
           static_cast<unsigned long long>(part.offset + done), static_cast<unsigned long long>(part.bytes - done));
    } else if (errno != EINTR) {
      fail("io_error", "reading failed at byte %llu: %s", static_cast<unsigned long long>(part.offset + done),
           std::strerror(errno));
    }
  }
}

// Staging memory that is given back when the last of its users lets go.
std::shared_ptr<void> staging_of(const std::shared_ptr<Device>& device, uint64_t bytes) {
  return {device->take_staging(bytes), [device, bytes](void* memory) { device->give_staging(memory, bytes); }};
}

}  // namespace

void read_file(Napi::Env env, std::shared_ptr<Stream> stream, const FilePart& part, std::shared_ptr<Storage> to,
               uint64_t offset, Completion done) {
  const bool staged = stream->device()->api().allocate_staging != nullptr;
  run_on_thread(env, [=] {
    try {
      if (!staged) {
        read_all(part, static_cast<char*>(to->data()) + offset);
        return done(nullptr);
      }
      const std::shared_ptr<void> staging = staging_of(stream->device(), part.bytes);
      read_all(part, static_cast<char*>(staging.get()));
      stream->upload_staged(to, offset, staging.get(), part.bytes, [staging, done](const Error* e) { done(e); });
    } catch (const Error& e) {
      done(&e);
    }
  });
}

}  // namespace qwen2::addon
