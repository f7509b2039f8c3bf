// The Node-API surface: devices, storages, streams and graphs by number. lib/native gives it its types and its shape.
//
// One instance an environment (the main thread, each worker); nothing is shared between them.

#include <napi.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <string>

#include "addon/background.h"
#include "addon/completions.h"
#include "addon/cuda_library.h"
#include "addon/file_reader.h"
#include "addon/marshal.h"
#include "core/stream.h"
#include "ops/devices.h"
#include "ops/ops.h"

namespace qwen2::addon {
namespace {

// Objects by number; numbers are never used again.
template <typename T>
class Table {
 public:
  explicit Table(const char* what) : what_(what) {}

  double add(std::shared_ptr<T> object) {
    objects_.emplace(++last_, std::move(object));
    return static_cast<double>(last_);
  }
  std::shared_ptr<T> find(double id) const {
    const auto found = objects_.find(static_cast<uint64_t>(id));
    return found == objects_.end() ? nullptr : found->second;
  }
  std::shared_ptr<T> get(const Napi::Value& id) const {
    std::shared_ptr<T> object = find(id.As<Napi::Number>().DoubleValue());
    if (!object) fail("disposed", "this %s was disposed", what_);
    return object;
  }
  std::shared_ptr<T> take(const Napi::Value& id) {
    std::shared_ptr<T> object = get(id);
    objects_.erase(static_cast<uint64_t>(id.As<Napi::Number>().DoubleValue()));
    return object;
  }
  void clear() { objects_.clear(); }

 private:
  const char* what_;
  std::map<uint64_t, std::shared_ptr<T>> objects_;
  uint64_t last_ = 0;
};

class Addon : public Napi::Addon<Addon> {
 public:
  Addon(Napi::Env env, Napi::Object exports) : completions_(std::make_unique<Completions>(env)) {
    DefineAddon(exports, {
                             method<&Addon::set_error_class>("setErrorClass"),
                             method<&Addon::operations>("operations"),
                             method<&Addon::cpu_levels>("cpuLevels"),
                             method<&Addon::probe_device>("probeDevice"),
                             method<&Addon::open_device>("openDevice"),
                             method<&Addon::describe_device>("describeDevice"),
                             method<&Addon::close_device>("closeDevice"),
                             method<&Addon::packed_bytes>("packedBytes"),
                             method<&Addon::kv_block_bytes>("kvBlockBytes"),
                             method<&Addon::allocate>("allocate"),
                             method<&Addon::allocate_in_background>("allocateInBackground"),
                             method<&Addon::release>("release"),
                             method<&Addon::create_stream>("createStream"),
                             method<&Addon::destroy_stream>("destroyStream"),
                             method<&Addon::enqueue>("enqueue"),
                             method<&Addon::upload>("upload"),
                             method<&Addon::download>("download"),
                             method<&Addon::synchronize>("synchronize"),
                             method<&Addon::record_event>("recordEvent"),
                             method<&Addon::wait_event>("waitEvent"),
                             method<&Addon::release_event>("releaseEvent"),
                             method<&Addon::begin_capture>("beginCapture"),
                             method<&Addon::end_capture>("endCapture"),
                             method<&Addon::launch>("launch"),
                             method<&Addon::release_graph>("releaseGraph"),
                             method<&Addon::measure>("measure"),
                             method<&Addon::read_file>("readFile"),
                             method<&Addon::trim_staging>("trimStaging"),
                         });
    // Registered after the thread-safe function, so it runs before that one's own clean-up: threads end first.
    napi_add_env_cleanup_hook(env, shut_down, this);
  }

 private:
  // Every method passes here: an Error becomes an instance of the JavaScript error class.
  template <Napi::Value (Addon::*body)(const Napi::CallbackInfo&)>
  Napi::Value guarded_call(const Napi::CallbackInfo& info) {
    try {
      return (this->*body)(info);
    } catch (const Error& e) {
      napi_throw(info.Env(), completions_->to_js(info.Env(), e));
    } catch (const std::bad_alloc&) {
      napi_throw(info.Env(), completions_->to_js(info.Env(), Error("out_of_memory", "the process has no memory left")));
    }
    return {};
  }

  template <Napi::Value (Addon::*body)(const Napi::CallbackInfo&)>
  PropertyDescriptor method(const char* name) {
    return InstanceMethod<&Addon::guarded_call<body>>(name);
  }

  static void shut_down(void* self) {
    Addon& addon = *static_cast<Addon*>(self);
    addon.streams_.clear();
    addon.graphs_.clear();
    addon.events_.clear();
    addon.storages_.clear();
    addon.devices_.clear();
    addon.completions_->close();
  }

  Napi::Value set_error_class(const Napi::CallbackInfo& info) {
    completions_->set_error_class(info[0].As<Napi::Function>());
    return info.Env().Undefined();
  }

  // [{ name, fields: [{ name, type }] }], in the order of their numbers.
  Napi::Value operations(const Napi::CallbackInfo& info) {
    static constexpr const char* types[] = {"tensor", "optionalTensor", "i32", "f32", "dtype"};
    Napi::Array list = Napi::Array::New(info.Env());
    for (const OpInfo& op : op_table()) {
      Napi::Array fields = Napi::Array::New(info.Env());
      for (const Field& field : op.fields) {
        Napi::Object entry = Napi::Object::New(info.Env());
        entry.Set("name", field.name);
        entry.Set("type", types[static_cast<int>(field.type)]);
        fields.Set(fields.Length(), entry);
      }
      Napi::Object entry = Napi::Object::New(info.Env());
      entry.Set("name", op.name);
      entry.Set("fields", fields);
      list.Set(list.Length(), entry);
    }
    return list;
  }

  Napi::Value cpu_levels(const Napi::CallbackInfo& info) {
    Napi::Array list = Napi::Array::New(info.Env());
    for (const std::string& name : cpu_variants()) list.Set(list.Length(), name);
    return list;
  }

  // (name) → Promise: rejects with the reason if a CUDA device can't be used. Opening it is quick from then on.
  Napi::Value probe_device(const Napi::CallbackInfo& info) {
    const std::string name = info[0].As<Napi::String>();
    return run_in_background(info.Env(), *completions_, [name] { open_cuda_device(name); });
  }

  // (name, threads, simd)
  Napi::Value open_device(const Napi::CallbackInfo& info) {
    const std::string name = info[0].As<Napi::String>();
    if (is_cuda(name)) return number(info, devices_.add(open_cuda_device(name)));
    const int threads = info[1].As<Napi::Number>().Int32Value();
    const std::string variant = info[2].As<Napi::String>();
    return number(info, devices_.add(open_host_device(name, threads, variant)));
  }

  Napi::Value describe_device(const Napi::CallbackInfo& info) {
    const std::shared_ptr<Device> device = devices_.get(info[0]);
    const DeviceDescription description = device->describe();
    Napi::Object result = Napi::Object::New(info.Env());
    result.Set("description", description.name);
    result.Set("variant", description.variant);
    result.Set("threads", description.threads);
    result.Set("totalBytes", static_cast<double>(description.total_bytes));
    result.Set("freeBytes", static_cast<double>(description.free_bytes));
    result.Set("allocatedBytes", static_cast<double>(device->allocated_bytes()));
    return result;
  }

  Napi::Value close_device(const Napi::CallbackInfo& info) {
    devices_.take(info[0]);
    return info.Env().Undefined();
  }

  // (device, dtype, rows, columns, group)
  Napi::Value packed_bytes(const Napi::CallbackInfo& info) {
    const std::shared_ptr<Device> device = devices_.get(info[0]);
    return number(info, static_cast<double>(device->api().packed_bytes(device->handle(), int32(info[1]),
                                                                       int64(info[2]), int64(info[3]), int32(info[4]))));
  }

  // (device, dtype, kvHeads, headDim, blockSize)
  Napi::Value kv_block_bytes(const Napi::CallbackInfo& info) {
    const std::shared_ptr<Device> device = devices_.get(info[0]);
    return number(info, static_cast<double>(device->api().kv_block_bytes(
                            device->handle(), int32(info[1]), int32(info[2]), int32(info[3]), int32(info[4]))));
  }

  // (device, bytes)
  Napi::Value allocate(const Napi::CallbackInfo& info) {
    const uint64_t bytes = static_cast<uint64_t>(int64(info[1]));
    return number(info, storages_.add(std::make_shared<Storage>(devices_.get(info[0]), bytes)));
  }

  // (device, bytes) → Promise of the storage's number. A GPU's driver takes milliseconds for large pieces.
  Napi::Value allocate_in_background(const Napi::CallbackInfo& info) {
    const uint64_t bytes = static_cast<uint64_t>(int64(info[1]));
    const std::shared_ptr<Device> device = devices_.get(info[0]);
    const Completions::Job job = completions_->start(info.Env());
    run_on_thread(info.Env(), [this, id = job.id, device, bytes] {
      try {
        auto storage = std::make_shared<Storage>(device, bytes);
        completions_->finish(id, nullptr, [this, storage](Napi::Env env) {
          return Napi::Number::New(env, storages_.add(storage));
        });
      } catch (const Error& e) {
        completions_->finish(id, &e);
      }
    });
    return job.promise;
  }

  // Unmapping gigabytes takes milliseconds, so not on the JavaScript thread.
  Napi::Value release(const Napi::CallbackInfo& info) {
    return run_in_background(info.Env(), *completions_, [storage = storages_.take(info[0])]() mutable { storage.reset(); });
  }

  Napi::Value create_stream(const Napi::CallbackInfo& info) {
    return number(info, streams_.add(std::make_shared<Stream>(devices_.get(info[0]))));
  }

  Napi::Value destroy_stream(const Napi::CallbackInfo& info) {
    streams_.take(info[0]);
    return info.Env().Undefined();
  }

  // (stream, operation, Float64Array of arguments, how many of them)
  Napi::Value enqueue(const Napi::CallbackInfo& info) {
    const std::shared_ptr<Stream> stream = streams_.get(info[0]);
    const Napi::Float64Array numbers = info[2].As<Napi::Float64Array>();
    stream->run(read_call(*stream->device(), info[1].As<Napi::Number>().Uint32Value(), numbers.Data(),
                          std::min<size_t>(numbers.ElementLength(), info[3].As<Napi::Number>().Uint32Value()),
                          [this](double id) { return storages_.find(id); }));
    return info.Env().Undefined();
  }

  // (stream, storage, byte offset, Uint8Array)
  Napi::Value upload(const Napi::CallbackInfo& info) {
    const Napi::Uint8Array bytes = info[3].As<Napi::Uint8Array>();
    std::shared_ptr<Storage> storage = storages_.get(info[1]);
    const uint64_t offset = part_of(*storage, info[2], bytes.ByteLength());
    const auto* data = reinterpret_cast<const std::byte*>(bytes.Data());
    streams_.get(info[0])->upload(std::move(storage), offset, {data, data + bytes.ByteLength()});
    return info.Env().Undefined();
  }

  // (stream, storage, byte offset, Uint8Array to write into) → Promise
  Napi::Value download(const Napi::CallbackInfo& info) {
    Napi::Uint8Array to = info[3].As<Napi::Uint8Array>();
    const std::shared_ptr<Stream> stream = streams_.get(info[0]);
    std::shared_ptr<Storage> storage = storages_.get(info[1]);
    const uint64_t offset = part_of(*storage, info[2], to.ByteLength());
    return promise_of(info.Env(), to, [&](uint64_t job) {
      stream->download(std::move(storage), offset, to.ByteLength(), to.Data(), finisher(job));
    });
  }

  Napi::Value synchronize(const Napi::CallbackInfo& info) {
    const std::shared_ptr<Stream> stream = streams_.get(info[0]);
    return promise_of(info.Env(), {}, [&](uint64_t job) { stream->synchronize(finisher(job)); });
  }

  Napi::Value record_event(const Napi::CallbackInfo& info) {
    auto event = std::make_shared<Event>();
    streams_.get(info[0])->record(event);
    return number(info, events_.add(std::move(event)));
  }

  // (stream, event)
  Napi::Value wait_event(const Napi::CallbackInfo& info) {
    streams_.get(info[0])->wait(events_.get(info[1]));
    return info.Env().Undefined();
  }

  Napi::Value release_event(const Napi::CallbackInfo& info) {
    events_.take(info[0]);
    return info.Env().Undefined();
  }

  Napi::Value begin_capture(const Napi::CallbackInfo& info) {
    streams_.get(info[0])->begin_capture();
    return info.Env().Undefined();
  }

  Napi::Value end_capture(const Napi::CallbackInfo& info) {
    return number(info, graphs_.add(streams_.get(info[0])->end_capture()));
  }

  // (stream, graph)
  Napi::Value launch(const Napi::CallbackInfo& info) {
    const std::shared_ptr<Stream> stream = streams_.get(info[0]);
    std::shared_ptr<Graph> graph = graphs_.get(info[1]);
    if (graph->device != stream->device()) fail("invalid_argument", "the graph was captured on another device");
    stream->launch(std::move(graph));
    return info.Env().Undefined();
  }

  Napi::Value release_graph(const Napi::CallbackInfo& info) {
    graphs_.take(info[0]);
    return info.Env().Undefined();
  }

  Napi::Value measure(const Napi::CallbackInfo& info) {
    const std::shared_ptr<Stream> stream = streams_.get(info[0]);
    return promise_of(info.Env(), {}, [&](uint64_t job) {
      stream->measure([this, job](const DeviceLimits& limits, const Error* error) {
        completions_->finish(job, error, [limits](Napi::Env env) {
          Napi::Object result = Napi::Object::New(env);
          result.Set("readBytesPerSecond", limits.read_bytes_per_second);
          result.Set("bf16OperationsPerSecond", limits.bf16_operations_per_second);
          result.Set("int8OperationsPerSecond", limits.int8_operations_per_second);
          return result;
        });
      });
    });
  }

  // (stream, file descriptor, file offset, bytes, storage, byte offset) → Promise
  Napi::Value read_file(const Napi::CallbackInfo& info) {
    const uint64_t bytes = static_cast<uint64_t>(int64(info[3]));
    std::shared_ptr<Storage> storage = storages_.get(info[4]);
    const uint64_t offset = part_of(*storage, info[5], bytes);
    const FilePart part{int32(info[1]), static_cast<uint64_t>(int64(info[2])), bytes};
    const std::shared_ptr<Stream> stream = streams_.get(info[0]);
    return promise_of(info.Env(), {}, [&](uint64_t job) {
      addon::read_file(info.Env(), stream, part, std::move(storage), offset, finisher(job));
    });
  }

  // (device)
  Napi::Value trim_staging(const Napi::CallbackInfo& info) {
    return run_in_background(info.Env(), *completions_, [device = devices_.get(info[0])] { device->trim_staging(); });
  }

  static int32_t int32(const Napi::Value& value) { return value.As<Napi::Number>().Int32Value(); }

  static int64_t int64(const Napi::Value& value) {
    const double number = value.As<Napi::Number>().DoubleValue();
    if (!(number >= 0 && number <= 9007199254740992.0) || number != std::floor(number))
      fail("invalid_argument", "a size or offset must be a whole number from 0 to 2^53, found %g", number);
    return static_cast<int64_t>(number);
  }

  static Napi::Value number(const Napi::CallbackInfo& info, double value) {
    return Napi::Number::New(info.Env(), value);
  }

  static uint64_t part_of(const Storage& storage, const Napi::Value& offset, uint64_t bytes) {
    const uint64_t begin = static_cast<uint64_t>(int64(offset));
    if (begin > storage.bytes() || bytes > storage.bytes() - begin)
      fail("invalid_argument", "%llu bytes at offset %llu are not within the storage's %llu bytes",
           static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(begin),
           static_cast<unsigned long long>(storage.bytes()));
    return begin;
  }

  // A promise for what `enqueue(job)` hands to a stream; there is none if that throws.
  template <typename Enqueue>
  Napi::Value promise_of(Napi::Env env, Napi::Value keep, Enqueue enqueue) {
    const Completions::Job job = completions_->start(env, keep);
    try {
      enqueue(job.id);
    } catch (...) {
      completions_->cancel(env, job.id);
      throw;
    }
    return job.promise;
  }

  Completion finisher(uint64_t job) {
    return [this, job](const Error* error) { completions_->finish(job, error); };
  }

  std::unique_ptr<Completions> completions_;
  Table<Device> devices_{"device"};
  Table<Storage> storages_{"storage"};
  Table<Event> events_{"event"};
  Table<Graph> graphs_{"graph"};
  Table<Stream> streams_{"stream"};
};

}  // namespace

NODE_API_NAMED_ADDON(qwen2, Addon)

}  // namespace qwen2::addon
