// Work on the threads of Node's pool.
#pragma once

#include <napi.h>

#include <functional>

#include "addon/completions.h"

namespace qwen2::addon {

// Runs `work` on a thread; it must not throw.
void run_on_thread(Napi::Env env, std::function<void()> work);

// The same; the promise resolves when it returns, or rejects with the Error that it throws.
Napi::Value run_in_background(Napi::Env env, Completions& completions, std::function<void()> work);

}  // namespace qwen2::addon
