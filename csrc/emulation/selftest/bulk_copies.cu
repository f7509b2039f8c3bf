// Hopper's copies: memory barriers with phases, and the fence between what threads write and what copies read.
#include "emulation/selftest/selftest.h"

namespace qwen2::cuda::selftest {
namespace {

constexpr int threads = 32;
constexpr int tiles = 4;
constexpr uint32_t tile_bytes = threads * sizeof(int);

struct Shared {
  alignas(16) int values[threads];
  uint64_t arrived;
};

enum class Bug { none, wrong_parity, too_few_bytes, too_many_bytes, no_init_barrier, no_init_fence, no_fence, no_store_wait };

__global__ void add_tiles_kernel(const int* in, int* out, Bug bug) {
  Shared& s = shared<Shared>();
  if (threadIdx.x == 0) {
    mbarrier_init(&s.arrived, 1);
    if (bug != Bug::no_init_fence) fence_proxy_async();
  }
  if (bug != Bug::no_init_barrier) __syncthreads();
  int sum = 0;
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    if (threadIdx.x == 0) {
      const int wrong = bug == Bug::too_few_bytes ? -16 : bug == Bug::too_many_bytes ? 16 : 0;
      mbarrier_arrive_expect_tx(&s.arrived, tile_bytes + static_cast<uint32_t>(wrong));
      cp_async_bulk_load(s.values, in + tile * threads, tile_bytes, &s.arrived);
    }
    mbarrier_wait(&s.arrived, bug == Bug::wrong_parity ? (tile + 1) % 2 : tile % 2);
    sum += s.values[threads - 1 - threadIdx.x];
    __syncthreads();
  }
  out[threadIdx.x] = sum;
}

bool adds_up(Bench& bench, Bug bug) {
  bench.needs(90, all_newer);
  int* out = bench.empty<int>(threads);
  launch(bench.context(), add_tiles_kernel, {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Shared)},
         bench.from(counting(tiles * threads)), out, bug);
  const std::vector<int> sums = bench.read(out, threads);
  for (int i = 0; i < threads; ++i)
    if (sums[static_cast<size_t>(i)] != tiles * (threads - 1 - i) + threads * tiles * (tiles - 1) / 2) return false;
  return true;
}

PLANTED(wait_for_the_wrong_parity) { return adds_up(bench, broken ? Bug::wrong_parity : Bug::none); }
PLANTED(barrier_expects_too_few_bytes) { return adds_up(bench, broken ? Bug::too_few_bytes : Bug::none); }
PLANTED(barrier_expects_too_many_bytes) { return adds_up(bench, broken ? Bug::too_many_bytes : Bug::none); }
PLANTED(memory_barrier_used_before_it_is_there) { return adds_up(bench, broken ? Bug::no_init_barrier : Bug::none); }
PLANTED(memory_barrier_that_copies_can_not_see) { return adds_up(bench, broken ? Bug::no_init_fence : Bug::none); }

__global__ void store_kernel(int* out, Bug bug) {
  Shared& s = shared<Shared>();
  s.values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (bug != Bug::no_fence) fence_proxy_async();
  __syncthreads();
  if (threadIdx.x != 0) return;
  cp_async_bulk_store(out, s.values, tile_bytes);
  cp_async_bulk_commit();
  if (bug != Bug::no_store_wait) cp_async_bulk_wait<0>();
}

bool stores(Bench& bench, Bug bug) {
  bench.needs(90, all_newer);
  int* out = bench.empty<int>(threads);
  launch(bench.context(), store_kernel, {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Shared)}, out, bug);
  return bench.read(out, threads) == counting(threads);
}

PLANTED(missing_proxy_fence) { return stores(bench, broken ? Bug::no_fence : Bug::none); }
PLANTED(block_ends_while_its_store_is_in_flight) { return stores(bench, broken ? Bug::no_store_wait : Bug::none); }

}  // namespace
}  // namespace qwen2::cuda::selftest
