// Barriers, warp operations, and what blocks tell each other.
#include "emulation/selftest/selftest.h"

namespace qwen2::cuda::selftest {
namespace {

constexpr int threads = 64;

struct Exchange {
  int values[threads];
};

// --- A value is read before its writer has written it ------------------------------------------------------------------

__global__ void reverse_kernel(const int* in, int* out, bool broken) {
  int* values = shared<Exchange>().values;
  values[threadIdx.x] = in[threadIdx.x];
  if (!broken) __syncthreads();
  out[threadIdx.x] = values[threads - 1 - threadIdx.x];
}

bool is_reversed(const std::vector<int>& values) {
  for (int i = 0; i < threads; ++i)
    if (values[static_cast<size_t>(i)] != threads - 1 - i) return false;
  return true;
}

PLANTED(missing_barrier) {
  int* out = bench.empty<int>(threads);
  launch(bench.context(), reverse_kernel, {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Exchange)},
         bench.from(counting(threads)), out, broken);
  return is_reversed(bench.read(out, threads));
}

// --- A tile is overwritten while others still read the one before ------------------------------------------------------

constexpr int tiles = 5;

__global__ void sum_reversed_kernel(const int* in, int* out, bool broken) {
  int* values = shared<Exchange>().values;
  int sum = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    values[threadIdx.x] = in[tile * threads + threadIdx.x];
    __syncthreads();
    sum += values[threads - 1 - threadIdx.x];
    if (!broken) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

PLANTED(write_after_read) {
  int* out = bench.empty<int>(threads);
  launch(bench.context(), sum_reversed_kernel, {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Exchange)},
         bench.from(counting(tiles * threads)), out, broken);
  const std::vector<int> sums = bench.read(out, threads);
  for (int i = 0; i < threads; ++i)
    if (sums[static_cast<size_t>(i)] != tiles * (threads - 1 - i) + threads * tiles * (tiles - 1) / 2) return false;
  return true;
}

// --- Threads of a block wait at different barriers, or some at none ------------------------------------------------------

__global__ void two_barriers_kernel(const int* in, int* out, bool broken) {
  int* values = shared<Exchange>().values;
  values[threadIdx.x] = in[threadIdx.x];
  if (broken && threadIdx.x < threads / 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = values[threads - 1 - threadIdx.x];
}

PLANTED(divergent_barrier) {
  int* out = bench.empty<int>(threads);
  launch(bench.context(), two_barriers_kernel, {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Exchange)},
         bench.from(counting(threads)), out, broken);
  return is_reversed(bench.read(out, threads));
}

__global__ void leaving_kernel(const int* in, int* out, bool broken) {
  if (broken && threadIdx.x == 3) return;
  int* values = shared<Exchange>().values;
  values[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = values[threads - 1 - threadIdx.x];
}

PLANTED(thread_leaves_before_barrier) {
  int* out = bench.empty<int>(threads);
  launch(bench.context(), leaving_kernel, {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Exchange)},
         bench.from(counting(threads)), out, broken);
  return is_reversed(bench.read(out, threads));
}

// --- A lane that takes no part in a shuffle, though the mask says so -----------------------------------------------------

__global__ void shuffle_kernel(int* out, bool broken) {
  int value = static_cast<int>(threadIdx.x);
  if (!broken || threadIdx.x % 2 == 0) value = __shfl_xor_sync(full_warp, value, 2);
  out[threadIdx.x] = value;
}

PLANTED(lane_missing_in_shuffle) {
  int* out = bench.empty<int>(32);
  launch(bench.context(), shuffle_kernel, {.blocks = 1, .threads = 32}, out, broken);
  const std::vector<int> values = bench.read(out, 32);
  for (int i = 0; i < 32; ++i)
    if (values[static_cast<size_t>(i)] != (i ^ 2)) return false;
  return true;
}

// The value of a lane outside the mask is not there.
__global__ void partial_shuffle_kernel(int* out, bool broken) {
  int value = static_cast<int>(threadIdx.x);
  if (threadIdx.x < 16) value = __shfl_xor_sync(0xFFFFu, value, broken ? 16 : 8);
  out[threadIdx.x] = value;
}

PLANTED(shuffle_from_lane_outside_mask) {
  int* out = bench.empty<int>(32);
  launch(bench.context(), partial_shuffle_kernel, {.blocks = 1, .threads = 32}, out, broken);
  const std::vector<int> values = bench.read(out, 32);
  for (int i = 0; i < 16; ++i)
    if (values[static_cast<size_t>(i)] != (i ^ 8)) return false;
  return true;
}

// --- The last block adds what all blocks left, and leaves the counter as it found it --------------------------------------

constexpr int blocks = 5;

__global__ void last_block_kernel(int* parts, int* out, unsigned* counter, bool broken) {
  parts[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
  __threadfence();
  if (atomicAdd(counter, 1u) != gridDim.x - 1) return;
  int sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += parts[i];
  *out = sum;
  if (!broken) *counter = 0;
}

PLANTED(counter_is_not_reset) {
  for (int round = 0; round < 2; ++round) {
    int* out = bench.empty<int>(1);
    launch(bench.context(), last_block_kernel, {.blocks = blocks, .threads = 1}, bench.empty<int>(blocks), out,
           bench.context().counters(), broken);
    if (bench.read(out, 1)[0] != blocks * (blocks + 1) / 2) return false;
  }
  return true;
}

// --- A launch that begins early reads before the one in front of it has ended ---------------------------------------------

__global__ void produce_kernel(int* out) {
  griddepcontrol_launch_dependents();
  out[blockIdx.x * blockDim.x + threadIdx.x] = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

__global__ void consume_kernel(const int* in, int* out, bool broken) {
  if (!broken) griddepcontrol_wait();
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = in[gridDim.x * blockDim.x - 1 - i];
}

PLANTED(early_launch_does_not_wait) {
  constexpr int count = 8 * threads;
  int *between = bench.empty<int>(count), *out = bench.empty<int>(count);
  launch(bench.context(), produce_kernel, {.blocks = 8, .threads = threads}, between);
  launch(bench.context(), consume_kernel, {.blocks = 8, .threads = threads, .dependent = true}, between, out, broken);
  const std::vector<int> values = bench.read(out, count);
  for (int i = 0; i < count; ++i)
    if (values[static_cast<size_t>(i)] != count - 1 - i) return false;
  return true;
}

}  // namespace
}  // namespace qwen2::cuda::selftest
