// Accesses beyond what there is, and reads of what nobody wrote.
#include "emulation/selftest/selftest.h"

namespace qwen2::cuda::selftest {
namespace {

constexpr int threads = 32;

struct Values {
  int values[threads];
};

__global__ void write_shared_kernel(int* out, int shift) {
  int* values = shared<Values>().values;
  values[threadIdx.x + static_cast<unsigned>(shift)] = 1;
  __syncthreads();
  out[threadIdx.x] = static_cast<int>(threadIdx.x);
}

bool ran(Bench& bench, int* out) {
  const std::vector<int> values = bench.read(out, threads);
  for (int i = 0; i < threads; ++i)
    if (values[static_cast<size_t>(i)] != i) return false;
  return true;
}

PLANTED(shared_write_one_beyond) {
  int* out = bench.empty<int>(threads);
  launch(bench.context(), write_shared_kernel, {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Values)}, out,
         broken ? 1 : 0);
  return ran(bench, out);
}

PLANTED(shared_write_far_beyond) {
  int* out = bench.empty<int>(threads);
  launch(bench.context(), write_shared_kernel, {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Values)}, out,
         broken ? 1000 : 0);
  return ran(bench, out);
}

__global__ void read_kernel(const float* in, float* out, int shift) { out[threadIdx.x] = in[threadIdx.x + shift]; }

bool is_finite(const std::vector<float>& values) {
  for (const float x : values)
    if (!(x - x == 0)) return false;
  return true;
}

// A byte beyond is poison, a page beyond faults.
PLANTED(global_read_one_beyond) {
  float* out = bench.empty<float>(threads);
  launch(bench.context(), read_kernel, {.blocks = 1, .threads = threads}, bench.from(std::vector<float>(threads, 1.0f)),
         out, broken ? 1 : 0);
  return bench.read(out, threads) == std::vector<float>(threads, 1.0f);
}

PLANTED(global_read_far_beyond) {
  float* out = bench.empty<float>(threads);
  launch(bench.context(), read_kernel, {.blocks = 1, .threads = threads}, bench.from(std::vector<float>(threads, 1.0f)),
         out, broken ? 1000 : 0);
  return bench.read(out, threads) == std::vector<float>(threads, 1.0f);
}

__global__ void write_global_kernel(int* out, int shift) {
  out[threadIdx.x + static_cast<unsigned>(shift)] = static_cast<int>(threadIdx.x);
}

PLANTED(global_write_one_beyond) {
  int* out = bench.empty<int>(threads);
  launch(bench.context(), write_global_kernel, {.blocks = 1, .threads = threads}, out, 0);
  if (broken) launch(bench.context(), write_global_kernel, {.blocks = 1, .threads = threads}, out, 1);
  return ran(bench, out);
}

// Sums what it was given, and with the bug one element of shared memory that nobody wrote.
__global__ void sum_kernel(const float* in, float* out, bool broken) {
  float* values = shared<float[threads + 1]>();
  values[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < threads + (broken ? 1 : 0); ++i) sum += values[i];
  out[threadIdx.x] = sum;
}

PLANTED(read_of_what_nobody_wrote) {
  float* out = bench.empty<float>(threads);
  launch(bench.context(), sum_kernel,
         {.blocks = 1, .threads = threads, .shared_bytes = (threads + 1) * sizeof(float)},
         bench.from(std::vector<float>(threads, 1.0f)), out, broken);
  return is_finite(bench.read(out, threads));
}

__global__ void copy_kernel(const int* in, int* out) { out[threadIdx.x] = in[threadIdx.x]; }

// Freed memory is not the caller's any more, even before it is somebody else's.
PLANTED(use_after_free) {
  int *in = bench.from(counting(threads)), *out = bench.empty<int>(threads);
  bench.context().synchronize();
  if (broken) require(cudaFree(in), "cudaFree");
  launch(bench.context(), copy_kernel, {.blocks = 1, .threads = threads}, in, out);
  return ran(bench, out);
}

// The copy happens when the stream gets there, not when it is enqueued.
PLANTED(source_of_a_copy_changes_too_early) {
  int* to = bench.empty<int>(threads);
  std::vector<int> from = counting(threads);
  cudaMemcpyAsync(to, from.data(), threads * sizeof(int), cudaMemcpyHostToDevice, bench.context().stream());
  if (!broken) bench.context().synchronize();
  from.assign(threads, -1);
  return ran(bench, to);
}

}  // namespace
}  // namespace qwen2::cuda::selftest
