#include "addon/file_reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "addon/completions.h"

namespace qwen2::addon {
namespace {

class Read : public Napi::AsyncWorker {
 public:
  Read(Napi::Env env, Completions& completions, uint64_t job, int fd, uint64_t file_offset, uint64_t bytes,
       std::shared_ptr<Storage> to, uint64_t offset)
      : AsyncWorker(env),
        completions_(completions),
        job_(job),
        fd_(fd),
        file_offset_(file_offset),
        bytes_(bytes),
        to_(std::move(to)),
        offset_(offset) {}

  void Execute() override {
    try {
      read_all();
    } catch (const Error& e) {
      error_ = e;
    }
    completions_.finish(job_, error_ ? &*error_ : nullptr);
  }

 private:
  void read_all() {
    char* to = static_cast<char*>(to_->data()) + offset_;
    uint64_t done = 0;
    while (done < bytes_) {
      // Linux reads at most 2 GiB at a time.
      const size_t part = std::min<uint64_t>(bytes_ - done, 1u << 30);
      const ssize_t count = pread(fd_, to + done, part, static_cast<off_t>(file_offset_ + done));
      if (count > 0) {
        done += static_cast<uint64_t>(count);
      } else if (count == 0) {
        fail("io_error", "the file ended at byte %llu while it was read; %llu more bytes were expected",
             static_cast<unsigned long long>(file_offset_ + done), static_cast<unsigned long long>(bytes_ - done));
      } else if (errno != EINTR) {
        fail("io_error", "reading failed at byte %llu: %s", static_cast<unsigned long long>(file_offset_ + done),
             std::strerror(errno));
      }
    }
  }

  Completions& completions_;
  uint64_t job_;
  int fd_;
  uint64_t file_offset_, bytes_;
  std::shared_ptr<Storage> to_;
  uint64_t offset_;
  std::optional<Error> error_;
};

class Release : public Napi::AsyncWorker {
 public:
  Release(Napi::Env env, std::shared_ptr<Storage> storage)
      : AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)), storage_(std::move(storage)) {}

  void Execute() override { storage_.reset(); }
  void OnOK() override { deferred_.Resolve(Env().Undefined()); }
  Napi::Promise promise() { return deferred_.Promise(); }

 private:
  Napi::Promise::Deferred deferred_;
  std::shared_ptr<Storage> storage_;
};

}  // namespace

Napi::Value read_file(Napi::Env env, Completions& completions, int fd, uint64_t file_offset, uint64_t bytes,
                      std::shared_ptr<Storage> to, uint64_t offset) {
  const Completions::Job job = completions.start(env);
  (new Read(env, completions, job.id, fd, file_offset, bytes, std::move(to), offset))->Queue();
  return job.promise;
}

Napi::Value release_storage(Napi::Env env, std::shared_ptr<Storage> storage) {
  auto* release = new Release(env, std::move(storage));
  const Napi::Promise promise = release->promise();
  release->Queue();
  return promise;
}

}  // namespace qwen2::addon
