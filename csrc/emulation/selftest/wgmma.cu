// wgmma: descriptors, accumulators in their places, and the orders that its asynchrony needs.
#include "cuda/bf16.h"
#include "emulation/selftest/selftest.h"

namespace qwen2::cuda::selftest {
namespace {

constexpr int tile_rows = 64, tile_depth = 64;  // of a; of b there are as many rows as d has columns

enum class Bug {
  none,
  wrong_step,
  wrong_parity,
  no_register_fence,
  no_commit,
  no_wait,
  released_early,
  written_in_flight,
  no_proxy_fence,
  not_swizzled,
  written_after_fence,
  warp_missing,
  garbage_accumulated,
  lanes_disagree,
};

__device__ void multiply(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) { wgmma_m64n64k16(d, a, b, accumulate); }
__device__ void multiply(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) { wgmma_m64n128k16(d, a, b, accumulate); }

// Writes d[64, 2 · count] from the accumulators of a warpgroup.
template <int count>
__device__ void store(float* out, const float (&d)[count]) {
  const int lane = lane_index(), row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4, t = 2 * (lane % 4);
#pragma unroll
  for (int i = 0; i < count; ++i) out[(row + i / 2 % 2 * 8) * 2 * count + i / 4 * 8 + t + i % 2] = d[i];
}

// Σₖ a[i, k] · b[j, k], held to the error of adding depth / 16 times to fp32, each off by less than 2⁻²⁰ of what was added.
bool is_product(const std::vector<float>& d, const std::vector<uint16_t>& a, const std::vector<uint16_t>& b, size_t a_rows,
                size_t columns, size_t depth, size_t stride) {
  for (size_t i = 0; i < tile_rows; ++i)
    for (size_t j = 0; j < columns; ++j) {
      double exact = 0, magnitude = 0;
      for (size_t k = 0; k < depth && i < a_rows; ++k) {
        const double product = static_cast<double>(to_float(bf16{a[i * stride + k]})) * to_float(bf16{b[j * stride + k]});
        exact += product;
        magnitude += std::fabs(product);
      }
      if (!(std::fabs(d[i * columns + j] - exact) <= 0x1p-16 * magnitude)) return false;
    }
  return true;
}

// --- Operands that TMA brings --------------------------------------------------------------------------------------------

constexpr int stages = 2, consumer_warps = 4;

template <int columns>
struct Pipeline {
  uint16_t a[stages][tile_rows * tile_depth];
  uint16_t b[stages][columns * tile_depth];
  uint64_t full[stages], empty[stages];
};

template <int columns>
__device__ void produce(Pipeline<columns>& s, const CUtensorMap& a, const CUtensorMap& b, int tiles) {
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = tile % stages, round = tile / stages;
    if (round > 0) mbarrier_wait(&s.empty[stage], static_cast<uint32_t>(round - 1) % 2);
    mbarrier_arrive_expect_tx(&s.full[stage], sizeof s.a[0] + sizeof s.b[0]);
    cp_async_bulk_tensor_2d(s.a[stage], a, 0, tile * tile_depth, &s.full[stage]);
    cp_async_bulk_tensor_2d(s.b[stage], b, 0, tile * tile_depth, &s.full[stage]);
  }
}

// One tile's products run while those of the next are issued.
template <int columns>
__device__ void consume(Pipeline<columns>& s, int tiles, float* out, const Bug bug) {
  float d[columns / 2] = {};
  const auto release = [&](int tile) {
    if (tile >= 0 && lane_index() == 0) mbarrier_arrive(&s.empty[tile % stages]);
  };
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = tile % stages;
    mbarrier_wait(&s.full[stage], static_cast<uint32_t>(tile / stages + (bug == Bug::wrong_parity ? 1 : 0)) % 2);
    if (bug != Bug::no_register_fence) wgmma_fence(d);
    const uint64_t a = wgmma_descriptor(s.a[stage]), b = wgmma_descriptor(s.b[stage]);
#pragma unroll
    for (uint64_t k = 0; k < tile_depth / 16; ++k) {
      const uint64_t step = bug == Bug::wrong_step ? 1 : 2;
      multiply(d, a + step * k, b + step * k, tile > 0 || k > 0);
    }
    if (bug == Bug::written_in_flight) d[0] = 0;
    if (bug != Bug::no_commit) wgmma_commit_group();
    if (bug == Bug::released_early) release(tile);
    wgmma_wait_group<1>(d);
    if (bug != Bug::released_early) release(tile - 1);
  }
  if (bug != Bug::no_wait) wgmma_wait_group<0>(d);
  store(out, d);
  if (bug == Bug::no_wait) wgmma_wait_group<0>(d);
}

// d[64, columns] = a · bᵀ: the fifth warp brings tiles of both, the four others multiply them.
template <int columns>
__global__ void __launch_bounds__(160)
    pipeline_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, int tiles, float* out,
                    Bug given) {
  const Bug bug = planted(given);
  auto& s = shared<Pipeline<columns>>();
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < stages; ++stage) {
      mbarrier_init(&s.full[stage], 1);
      mbarrier_init(&s.empty[stage], consumer_warps);
    }
    fence_proxy_async();
  }
  __syncthreads();
  if (threadIdx.x / 32 < consumer_warps) {
    consume(s, tiles, out, bug);
  } else if (lane_index() == 0) {
    produce(s, a, b, tiles);
  }
}

// a has fewer rows than a tile, and the last tile is deeper than a and b: the rest is zeros.
template <int columns>
bool multiplies_copied(Bench& bench, Bug bug) {
  bench.needs(90, 90);
  constexpr size_t a_rows = 50, depth = 360, stride = 368;
  const std::vector<uint16_t> a = random_bf16(a_rows * stride, 1), b = random_bf16(columns * stride, 2);
  float* out = bench.empty<float>(tile_rows * columns);
  launch(bench.context(), pipeline_kernel<columns>,
         {.blocks = 1, .threads = 160, .shared_bytes = sizeof(Pipeline<columns>)},
         tensor_map(bench.from(a), a_rows, depth, stride, tile_rows),
         tensor_map(bench.from(b), columns, depth, stride, columns), static_cast<int>((depth + 63) / 64), out, bug);
  return is_product(bench.read(out, tile_rows * columns), a, b, a_rows, columns, depth, stride);
}

PLANTED(descriptor_step_wrong) { return multiplies_copied<64>(bench, broken ? Bug::wrong_step : Bug::none); }
PLANTED(descriptor_step_wrong_of_128_columns) { return multiplies_copied<128>(bench, broken ? Bug::wrong_step : Bug::none); }
PLANTED(wgmma_before_its_operands_are_there) { return multiplies_copied<64>(bench, broken ? Bug::wrong_parity : Bug::none); }
PLANTED(wgmma_without_fence) { return multiplies_copied<64>(bench, broken ? Bug::no_register_fence : Bug::none); }
PLANTED(wgmma_not_committed) { return multiplies_copied<64>(bench, broken ? Bug::no_commit : Bug::none); }
PLANTED(accumulators_read_before_wait) { return multiplies_copied<128>(bench, broken ? Bug::no_wait : Bug::none); }
PLANTED(accumulators_written_in_flight) { return multiplies_copied<64>(bench, broken ? Bug::written_in_flight : Bug::none); }
PLANTED(stage_released_before_its_products_are_done) {
  return multiplies_copied<64>(bench, broken ? Bug::released_early : Bug::none);
}

// --- Operands that threads write -----------------------------------------------------------------------------------------

struct Written {
  uint4 a[tile_rows][tile_depth / 8];
  uint4 b[tile_rows][tile_depth / 8];
};

// d[64, 64] = a[64, 64] · b[64, 64]ᵀ.
__global__ void __launch_bounds__(128) written_kernel(const uint4* a, const uint4* b, float* out, Bug given) {
  const Bug bug = planted(given);
  Written& s = shared<Written>();
  for (unsigned i = threadIdx.x; i < tile_rows * 8; i += 128) {
    const unsigned row = i / 8, chunk = bug == Bug::not_swizzled ? i % 8 : i % 8 ^ row % 8;
    s.a[row][chunk] = a[i];
    s.b[row][chunk] = b[i];
  }
  if (bug != Bug::no_proxy_fence) fence_proxy_async();
  __syncthreads();
  if (bug == Bug::warp_missing && threadIdx.x / 32 == 2) return;
  float d[32];
#pragma unroll
  for (int i = 0; i < 32; ++i) d[i] = __int_as_float(-1);  // NaN, which the first product must not add to
  wgmma_fence(d);
  if (bug == Bug::written_after_fence) d[3] = 1;
  const uint64_t descriptor_a = wgmma_descriptor(s.a), descriptor_b = wgmma_descriptor(s.b);
#pragma unroll
  for (uint64_t k = 0; k < 4; ++k)
    wgmma_m64n64k16(d, descriptor_a + 2 * k, descriptor_b + 2 * (bug == Bug::lanes_disagree && lane_index() == 7 ? 0 : k),
                    k > 0 || bug == Bug::garbage_accumulated);
  wgmma_commit_group();
  wgmma_wait_group<0>(d);
  store(out, d);
}

bool multiplies_written(Bench& bench, Bug bug) {
  bench.needs(90, 90);
  const std::vector<uint16_t> a = random_bf16(tile_rows * tile_depth, 3), b = random_bf16(tile_rows * tile_depth, 4);
  float* out = bench.empty<float>(tile_rows * tile_rows);
  launch(bench.context(), written_kernel, {.blocks = 1, .threads = 128, .shared_bytes = sizeof(Written)},
         reinterpret_cast<const uint4*>(bench.from(a)), reinterpret_cast<const uint4*>(bench.from(b)), out, bug);
  return is_product(bench.read(out, tile_rows * tile_rows), a, b, tile_rows, tile_rows, tile_depth, tile_depth);
}

PLANTED(operands_written_without_proxy_fence) { return multiplies_written(bench, broken ? Bug::no_proxy_fence : Bug::none); }
PLANTED(operands_written_without_swizzle) { return multiplies_written(bench, broken ? Bug::not_swizzled : Bug::none); }
PLANTED(accumulators_written_after_fence) { return multiplies_written(bench, broken ? Bug::written_after_fence : Bug::none); }
PLANTED(warp_of_the_group_missing) { return multiplies_written(bench, broken ? Bug::warp_missing : Bug::none); }
PLANTED(sums_added_to_what_was_there) { return multiplies_written(bench, broken ? Bug::garbage_accumulated : Bug::none); }
PLANTED(descriptors_of_lanes_disagree) { return multiplies_written(bench, broken ? Bug::lanes_disagree : Bug::none); }

}  // namespace
}  // namespace qwen2::cuda::selftest
