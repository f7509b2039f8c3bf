// Promises settled by native threads: they post, the JavaScript thread settles.
#pragma once

#include <napi.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "core/error.h"

namespace qwen2::addon {

class Completions {
 public:
  explicit Completions(Napi::Env env);

  // The class that errors become instances of; called as new Class(code, message).
  void set_error_class(Napi::Function error_class) { error_class_ = Napi::Persistent(error_class); }
  // An Error as its JavaScript object. JavaScript thread only.
  Napi::Value to_js(Napi::Env env, const Error& error) const;

  struct Job {
    uint64_t id;
    Napi::Promise promise;
  };
  // A pending promise, which keeps the event loop alive; `keep` stays referenced until it is settled.
  Job start(Napi::Env env, Napi::Value keep = {});
  // Forgets a job that nobody will finish.
  void cancel(Napi::Env env, uint64_t id);

  // Settles the promise of a job, from any thread, once: rejects with the error, or resolves with what `value` makes.
  using MakeValue = std::function<Napi::Value(Napi::Env)>;
  void finish(uint64_t id, const Error* error, MakeValue value = nullptr);

  // After this nothing is settled any more; the environment is going away.
  void close();

 private:
  struct Pending {
    Napi::Promise::Deferred deferred;
    Napi::Reference<Napi::Value> keep;
  };
  struct Finished {
    uint64_t id;
    std::optional<Error> error;
    MakeValue value;
  };
  void settle(Napi::Env env);
  Pending take(Napi::Env env, std::map<uint64_t, Pending>::iterator job);

  Napi::FunctionReference error_class_;
  Napi::ThreadSafeFunction wake_;
  std::map<uint64_t, Pending> pending_;  // JavaScript thread only
  uint64_t next_id_ = 1;

  std::mutex mutex_;
  std::vector<Finished> finished_;
  bool closed_ = false;
};

}  // namespace qwen2::addon
