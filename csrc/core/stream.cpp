#include "core/stream.h"

#include "core/contract.h"
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

std::optional<Error> Event::wait() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return complete_; });
  return error_;
}

Stream::Stream(std::shared_ptr<Device> device) : device_(std::move(device)) {
  call(device_->api().create_context, device_->handle(), &context_);
  thread_ = std::thread([this] { thread_main(); });
}

Stream::~Stream() {
  std::deque<Task> dropped;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped.swap(queue_);
  }
  wake_.notify_one();
  thread_.join();
  const Error gone("disposed", "the stream was destroyed before this work ran");
  for (Task& task : dropped)
    if (auto* record = std::get_if<Record>(&task)) record->event->complete(&gone);
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
  capture_ = std::make_shared<Graph>();
  capture_->device = device_;
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
  attempt([&] {
    try {
      call(op_call.kernel, context_, static_cast<const void*>(op_call.args.data()),
           static_cast<uint32_t>(op_call.args.size()));
    } catch (const Error& e) {
      throw Error(e.code(), std::string(e.what()) + "; in " + describe_call(*op_call.op, op_call.args.data()) +
                                " on " + device_->name());
    }
  });
}

void Stream::execute(Upload& upload) {
  attempt([&] {
    void* to = static_cast<std::byte*>(upload.to->data()) + upload.offset;
    call(device_->api().upload, context_, to, static_cast<const void*>(upload.bytes.data()),
         static_cast<uint64_t>(upload.bytes.size()));
  });
}

void Stream::execute(Download& download) {
  attempt([&] {
    const void* from = static_cast<const std::byte*>(download.from->data()) + download.offset;
    call(device_->api().download, context_, download.to, from, download.bytes);
  });
  download.done(error_ ? &*error_ : nullptr);
}

void Stream::execute(std::shared_ptr<Graph>& graph) {
  for (OpCall& call : graph->calls) execute(call);
}

void Stream::execute(Record& record) {
  attempt([&] { call(device_->api().synchronize, context_); });
  record.event->complete(error_ ? &*error_ : nullptr);
}

void Stream::execute(Wait& wait) {
  attempt([&] {
    if (std::optional<Error> error = wait.event->wait()) throw Error(*error);
  });
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

}  // namespace qwen2
