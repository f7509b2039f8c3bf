#include "addon/completions.h"

namespace qwen2::addon {

Completions::Completions(Napi::Env env) {
  wake_ = Napi::ThreadSafeFunction::New(env, Napi::Function(), "qwen2", 0, 1);
  wake_.Unref(env);
}

Napi::Value Completions::to_js(Napi::Env env, const Error& error) const {
  return error_class_.New({Napi::String::New(env, error.code()), Napi::String::New(env, error.what())});
}

Completions::Job Completions::start(Napi::Env env, Napi::Value keep) {
  if (pending_.empty()) wake_.Ref(env);
  const uint64_t id = next_id_++;
  Pending job{Napi::Promise::Deferred::New(env), {}};
  const Napi::Promise promise = job.deferred.Promise();
  if (!keep.IsEmpty()) job.keep = Napi::Reference<Napi::Value>::New(keep, 1);
  pending_.emplace(id, std::move(job));
  return {id, promise};
}

void Completions::cancel(Napi::Env env, uint64_t id) { take(env, pending_.find(id)); }

Completions::Pending Completions::take(Napi::Env env, std::map<uint64_t, Pending>::iterator job) {
  Pending pending = std::move(job->second);
  pending_.erase(job);
  if (pending_.empty()) wake_.Unref(env);
  return pending;
}

void Completions::finish(uint64_t id, const Error* error, MakeValue value) {
  std::lock_guard lock(mutex_);
  if (closed_) return;
  finished_.push_back({id, error ? std::optional<Error>(*error) : std::nullopt, std::move(value)});
  if (finished_.size() > 1) return;  // a wake-up is on its way already
  // No JavaScript function is behind the queue: the callback alone runs. An exception that left it would abort the
  // process (a worker being terminated throws at any call), so nothing does.
  wake_.NonBlockingCall([this](Napi::Env env, Napi::Function) {
    try {
      if (static_cast<napi_env>(env) != nullptr) settle(env);
    } catch (...) {
    }
  });
}

void Completions::settle(Napi::Env env) {
  Napi::HandleScope scope(env);
  std::vector<Finished> finished;
  {
    std::lock_guard lock(mutex_);
    finished.swap(finished_);
  }
  for (Finished& job : finished) {
    auto found = pending_.find(job.id);
    if (found == pending_.end()) continue;
    const Pending pending = take(env, found);
    if (job.error) {
      pending.deferred.Reject(to_js(env, *job.error));
    } else {
      pending.deferred.Resolve(job.value ? job.value(env) : env.Undefined());
    }
  }
}

void Completions::close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    finished_.clear();
  }
  pending_.clear();
  wake_.Abort();
}

}  // namespace qwen2::addon
