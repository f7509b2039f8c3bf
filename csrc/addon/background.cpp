#include "addon/background.h"

#include <new>
#include <utility>

namespace qwen2::addon {
namespace {

class Work : public Napi::AsyncWorker {
 public:
  Work(Napi::Env env, std::function<void()> work) : AsyncWorker(env), work_(std::move(work)) {}
  void Execute() override { work_(); }

 private:
  std::function<void()> work_;
};

}  // namespace

void run_on_thread(Napi::Env env, std::function<void()> work) { (new Work(env, std::move(work)))->Queue(); }

Napi::Value run_in_background(Napi::Env env, Completions& completions, std::function<void()> work) {
  const Completions::Job job = completions.start(env);
  run_on_thread(env, [&completions, id = job.id, work = std::move(work)] {
    try {
      work();
      completions.finish(id, nullptr);
    } catch (const Error& e) {
      completions.finish(id, &e);
    } catch (const std::bad_alloc&) {
      const Error error("out_of_memory", "the process has no memory left");
      completions.finish(id, &error);
    }
  });
  return job.promise;
}

}  // namespace qwen2::addon
