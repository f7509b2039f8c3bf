// Work in order: a stream is a native thread that executes what is enqueued, so that the caller never computes and
// never waits. Every call here returns at once.
//
// The earliest error is kept: the work behind it is skipped, every download and event behind it reports it, and the
// next synchronize() reports and clears it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <variant>
#include <vector>

#include "core/device.h"
#include "core/error.h"

namespace qwen2 {

// Called on the stream's thread, once; null means success.
using Completion = std::function<void(const Error*)>;
using Pins = std::vector<std::shared_ptr<Storage>>;

// One operation with its arguments, and the storages it touches.
struct OpCall {
  const OpInfo* op;
  Kernel kernel;
  std::vector<std::byte> args;
  Pins pins;
};

// A recorded list of operations that replays in one call. It pins the storages its operations touch.
struct Graph {
  explicit Graph(std::shared_ptr<Device> of) : device(std::move(of)) {}
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  std::shared_ptr<Device> device;
  std::vector<OpCall> calls;
  // The device's own form of it, made at the first launch where the device has one. It belongs to the context that
  // captured it.
  void* captured = nullptr;
  void* captured_by = nullptr;
};

// A point in a stream that other streams, or the caller, can wait for.
class Event {
 public:
  void complete(const Error* error);
  // Blocks the calling stream thread until the event is complete, or `stopping` is set and wake() called. Returns the
  // error of the stream that recorded the event, or that it did not happen in time.
  std::optional<Error> wait(const std::atomic<bool>& stopping);
  void wake();

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  bool complete_ = false;
  std::optional<Error> error_;
};

class Stream {
 public:
  explicit Stream(std::shared_ptr<Device> device);
  // Drops what is queued, waits for the operation that runs. Whoever waits for dropped work is told.
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  const std::shared_ptr<Device>& device() const { return device_; }

  void run(OpCall call);
  // `bytes` are copied by the caller into the record, so the source may change at once.
  void upload(std::shared_ptr<Storage> to, uint64_t offset, std::vector<std::byte> bytes);
  // `from` is staging memory of the device and must stay valid until `done` is called.
  void upload_staged(std::shared_ptr<Storage> to, uint64_t offset, const void* from, uint64_t bytes, Completion done);
  // `to` must stay valid until `done` is called.
  void download(std::shared_ptr<Storage> from, uint64_t offset, uint64_t bytes, void* to, Completion done);
  void launch(std::shared_ptr<Graph> graph);
  void record(std::shared_ptr<Event> event);
  void wait(std::shared_ptr<Event> event);
  void synchronize(Completion done);
  void measure(std::function<void(const DeviceLimits&, const Error*)> done);

  // Between these two, operations are recorded and not executed; other work is refused.
  void begin_capture();
  std::shared_ptr<Graph> end_capture();

 private:
  struct Upload {
    std::shared_ptr<Storage> to;
    uint64_t offset;
    std::vector<std::byte> bytes;
  };
  struct StagedUpload {
    std::shared_ptr<Storage> to;
    uint64_t offset;
    const void* from;
    uint64_t bytes;
    Completion done;
  };
  struct Download {
    std::shared_ptr<Storage> from;
    uint64_t offset, bytes;
    void* to;
    Completion done;
  };
  struct Record {
    std::shared_ptr<Event> event;
  };
  struct Wait {
    std::shared_ptr<Event> event;
  };
  struct Synchronize {
    Completion done;
  };
  struct Measure {
    std::function<void(const DeviceLimits&, const Error*)> done;
  };
  using Task = std::variant<OpCall, Upload, StagedUpload, Download, std::shared_ptr<Graph>, Record, Wait, Synchronize,
                            Measure>;

  void enqueue(Task task);
  void refuse_in_capture(const char* what) const;
  void thread_main();
  void attempt(const std::function<void()>& work);
  void execute(OpCall& call);
  void run_op(OpCall& call);
  void capture(Graph& graph);
  void execute(Upload& upload);
  void execute(StagedUpload& upload);
  void execute(Download& download);
  void execute(std::shared_ptr<Graph>& graph);
  void execute(Record& record);
  void execute(Wait& wait);
  void execute(Synchronize& synchronize);
  void execute(Measure& measure);
  // Tells who waits for work that will not be done.
  static void drop(StagedUpload& upload, const Error& why);
  static void drop(Download& download, const Error& why);
  static void drop(Record& record, const Error& why);
  static void drop(Synchronize& synchronize, const Error& why);
  static void drop(Measure& measure, const Error& why);
  template <typename Work>
  static void drop(Work&, const Error&) {}

  std::shared_ptr<Device> device_;
  std::shared_ptr<Graph> capture_;  // caller's thread only
  void* context_ = nullptr;
  std::optional<Error> error_;  // stream's thread only

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Task> queue_;
  std::shared_ptr<Event> awaited_;  // what the stream's thread waits for
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace qwen2
