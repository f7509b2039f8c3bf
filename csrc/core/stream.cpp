#include "core/stream.h"

#include <utility>

#include <system_error>

#include "core/describe.h"
#include "core/guard.h"

namespace qwen2 {

void Event::complete(const Error* error) {
  {
    std::lock_guard lock(mutex_);
    complete_ = true;
    if (error) error_ = *error;
  }
  done_.notify_all();
}

std::optional<Error> Event::wait(const std::atomic<bool>& stopping) {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return complete_ || stopping; });
  if (!complete_) return Error("disposed", "the stream was destroyed while it waited for an event");
  return error_;
}

void Event::wake() {
  // Behind the lock: a thread that found `stopping` unset is waiting by now.
  { std::lock_guard lock(mutex_); }
  done_.notify_all();
}

Graph::~Graph() {
  if (captured != nullptr) device->api().destroy_graph(device->handle(), captured);
}

Stream::Stream(std::shared_ptr<Device> device) : device_(std::move(device)) {
  call(device_->api().create_context, device_->handle(), &context_);
  try {
    thread_ = std::thread([this] { thread_main(); });
  } catch (const std::system_error& e) {
    device_->api().destroy_context(context_);
    fail("out_of_memory", "the system refused a thread for a stream: %s", e.what());
  }
}

Stream::~Stream() {
  std::deque<Task> dropped;
  std::shared_ptr<Event> awaited;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped.swap(queue_);
    awaited = awaited_;
  }
  wake_.notify_one();
  if (awaited) awaited->wake();
  thread_.join();
  const Error why = error_.value_or(Error("disposed", "the stream was destroyed before this work ran"));
  for (Task& task : dropped) std::visit([&](auto& work) { drop(work, why); }, task);
  device_->api().destroy_context(context_);
}

void Stream::run(OpCall call) {
  if (capture_) {
    capture_->calls.push_back(std::move(call));
  } else {
    enqueue(std::move(call));
  }
}

void Stream::upload(std::shared_ptr<Storage> to, uint64_t offset, std::vector<std::byte> bytes) {
  refuse_in_capture("an upload");
  enqueue(Upload{std::move(to), offset, std::move(bytes)});
}

void Stream::upload_staged(std::shared_ptr<Storage> to, uint64_t offset, const void* from, uint64_t bytes,
                           Completion done) {
  enqueue(StagedUpload{std::move(to), offset, from, bytes, std::move(done)});
}

void Stream::download(std::shared_ptr<Storage> from, uint64_t offset, uint64_t bytes, void* to, Completion done) {
  refuse_in_capture("a download");
  enqueue(Download{std::move(from), offset, bytes, to, std::move(done)});
}

void Stream::launch(std::shared_ptr<Graph> graph) {
  refuse_in_capture("the launch of a graph");
  enqueue(std::move(graph));
}

void Stream::record(std::shared_ptr<Event> event) {
  refuse_in_capture("an event");
  enqueue(Record{std::move(event)});
}

void Stream::wait(std::shared_ptr<Event> event) {
  refuse_in_capture("an event");
  enqueue(Wait{std::move(event)});
}

void Stream::synchronize(Completion done) {
  refuse_in_capture("synchronize()");
  enqueue(Synchronize{std::move(done)});
}

void Stream::measure(std::function<void(const DeviceLimits&, const Error*)> done) {
  refuse_in_capture("measure()");
  enqueue(Measure{std::move(done)});
}

void Stream::begin_capture() {
  refuse_in_capture("another capture");
  capture_ = std::make_shared<Graph>(device_);
}

std::shared_ptr<Graph> Stream::end_capture() {
  if (!capture_) fail("invalid_argument", "end_capture() without begin_capture()");
  return std::move(capture_);
}

void Stream::enqueue(Task task) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(task));
  }
  wake_.notify_one();
}

void Stream::refuse_in_capture(const char* what) const {
  if (capture_) fail("invalid_argument", "a capture records operations only; %s is not one", what);
}

void Stream::thread_main() {
  for (;;) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    Task task = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    std::visit([this](auto& work) { execute(work); }, task);
  }
}

// Work behind an error is skipped.
void Stream::attempt(const std::function<void()>& work) {
  if (error_) return;
  try {
    work();
  } catch (const Error& e) {
    error_ = e;
  }
}

void Stream::execute(OpCall& op_call) {
  attempt([&] { run_op(op_call); });
}

void Stream::run_op(OpCall& op_call) {
  try {
    call(op_call.kernel, context_, static_cast<const void*>(op_call.args.data()),
         static_cast<uint32_t>(op_call.args.size()));
  } catch (const Error& e) {
    throw Error(e.code(), std::string(e.what()) + "; in " + describe_call(*op_call.op, op_call.args.data()) + " on " +
                              device_->name());
  }
}

void Stream::execute(Upload& upload) {
  attempt([&] {
    if (upload.bytes.empty()) return;
    void* to = static_cast<std::byte*>(upload.to->data()) + upload.offset;
    call(device_->api().upload, context_, to, static_cast<const void*>(upload.bytes.data()),
         static_cast<uint64_t>(upload.bytes.size()));
  });
}

void Stream::execute(StagedUpload& upload) {
  attempt([&] {
    void* to = static_cast<std::byte*>(upload.to->data()) + upload.offset;
    call(device_->api().upload_staged, context_, to, upload.from, upload.bytes);
  });
  upload.done(error_ ? &*error_ : nullptr);
}

void Stream::execute(Download& download) {
  attempt([&] {
    if (download.bytes == 0) return;
    const void* from = static_cast<const std::byte*>(download.from->data()) + download.offset;
    call(device_->api().download, context_, download.to, from, download.bytes);
  });
  download.from.reset();  // so that whoever is told may count on the memory being free
  download.done(error_ ? &*error_ : nullptr);
}

void Stream::execute(std::shared_ptr<Graph>& graph) {
  for (OpCall& call : graph->calls)
    if (!stopping_) execute(call);
}

void Stream::execute(Record& record) {
  attempt([&] { call(device_->api().synchronize, context_); });
  record.event->complete(error_ ? &*error_ : nullptr);
}

void Stream::execute(Wait& wait) {
  const auto set_awaited = [this](std::shared_ptr<Event> event) {
    std::lock_guard lock(mutex_);
    awaited_ = std::move(event);
  };
  set_awaited(wait.event);
  attempt([&] {
    if (std::optional<Error> error = wait.event->wait(stopping_)) throw Error(*error);
  });
  set_awaited(nullptr);
}

void Stream::execute(Synchronize& synchronize) {
  attempt([&] { call(device_->api().synchronize, context_); });
  std::optional<Error> error;
  error.swap(error_);
  synchronize.done(error ? &*error : nullptr);
}

void Stream::execute(Measure& measure) {
  DeviceLimits limits{};
  attempt([&] { call(device_->api().measure, context_, &limits); });
  measure.done(limits, error_ ? &*error_ : nullptr);
}

void Stream::drop(StagedUpload& upload, const Error& why) { upload.done(&why); }
void Stream::drop(Download& download, const Error& why) { download.done(&why); }
void Stream::drop(Record& record, const Error& why) { record.event->complete(&why); }
void Stream::drop(Synchronize& synchronize, const Error& why) { synchronize.done(&why); }
void Stream::drop(Measure& measure, const Error& why) { measure.done({}, &why); }

}  // namespace qwen2
