// cp.async: what is copied is there when it was waited for, for whoever waited, and behind a barrier for all.
#include "emulation/selftest/selftest.h"

namespace qwen2::cuda::selftest {
namespace {

constexpr int threads = 32;
constexpr int stages = 2;
constexpr int tiles = 6;
constexpr int tile_ints = threads * 4;

struct Stages {
  int values[stages][tile_ints];
};

enum class Bug { none, no_wait, one_group_short, no_barrier, refilled_too_early };

// Adds up tiles that are copied one ahead of the one that is read, each thread reading what its neighbour copied.
__global__ void add_tiles_kernel(const int* in, int* out, Bug bug) {
  Stages& stage = shared<Stages>();
  const auto fetch = [&](int tile) {
    if (tile < tiles)
      cp_async_16(&stage.values[tile % stages][4 * threadIdx.x], in + tile * tile_ints + 4 * threadIdx.x, 16);
    cp_async_commit();
  };
  fetch(0);
  int sum = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    if (bug == Bug::refilled_too_early || tile == 0) fetch(tile + 1);
    if (bug == Bug::one_group_short) {
      cp_async_wait<stages>();
    } else if (bug != Bug::no_wait) {
      cp_async_wait<stages - 1>();
    }
    if (bug != Bug::no_barrier) __syncthreads();
    sum += stage.values[tile % stages][4 * ((threadIdx.x + 1) % threads)];
    if (bug != Bug::refilled_too_early) {
      __syncthreads();
      if (tile > 0 || bug == Bug::none) fetch(tile + 2);
    }
  }
  cp_async_wait<0>();
  out[threadIdx.x] = sum;
}

bool adds_up(Bench& bench, Bug bug) {
  int* out = bench.empty<int>(threads);
  launch(bench.context(), add_tiles_kernel, {.blocks = 2, .threads = threads, .shared_bytes = sizeof(Stages)},
         bench.from(counting(tiles * tile_ints)), out, bug);
  const std::vector<int> sums = bench.read(out, threads);
  for (int i = 0; i < threads; ++i)
    if (sums[static_cast<size_t>(i)] != tiles * 4 * ((i + 1) % threads) + tile_ints * tiles * (tiles - 1) / 2)
      return false;
  return true;
}

PLANTED(copy_is_not_waited_for) { return adds_up(bench, broken ? Bug::no_wait : Bug::none); }
PLANTED(copy_is_waited_for_one_group_short) { return adds_up(bench, broken ? Bug::one_group_short : Bug::none); }
PLANTED(copy_of_another_thread_without_barrier) { return adds_up(bench, broken ? Bug::no_barrier : Bug::none); }
PLANTED(stage_is_refilled_while_it_is_read) { return adds_up(bench, broken ? Bug::refilled_too_early : Bug::none); }

// What the source is short of is zeros, and not read.
__global__ void short_copy_kernel(const float* in, float* out, bool broken) {
  float* values = shared<float[4]>();
  cp_async_16(values, in, broken ? 16 : 0);
  cp_async_commit();
  cp_async_wait<0>();
  for (int i = 0; i < 4; ++i) out[i] = values[i];
}

PLANTED(copy_beyond_the_source) {
  float* out = bench.empty<float>(4);
  launch(bench.context(), short_copy_kernel, {.blocks = 1, .threads = 1, .shared_bytes = 16}, bench.empty<float>(4), out,
         broken);
  return bench.read(out, 4) == std::vector<float>(4, 0.0f);
}

}  // namespace
}  // namespace qwen2::cuda::selftest
