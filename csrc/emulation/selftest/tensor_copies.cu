// TMA: boxes of a matrix, where the swizzle puts them, and what of them is outside of the matrix.
#include "cuda/bf16.h"
#include "emulation/selftest/selftest.h"

namespace qwen2::cuda::selftest {
namespace {

constexpr int rows = 20, columns = 72, row_stride = 80;  // of the matrix, with padding that is not zero
constexpr int box_rows = 16, box_columns = tensor_box_columns;
constexpr uint32_t box_bytes = box_rows * box_columns * 2;
constexpr int threads = 32;

struct Shared {
  uint16_t box[box_rows * box_columns];
  uint16_t beyond[box_columns];  // so that a misplaced box has its room
  uint64_t arrived;
};

enum class Bug { none, not_swizzled, larger_map, too_few_bytes, misaligned, not_waited_for, odd_stride };

// Out: the box, row-major.
__global__ void copy_box_kernel(const __grid_constant__ CUtensorMap map, int row, int column, uint16_t* out, Bug bug) {
  Shared& s = shared<Shared>();
  uint16_t* box = bug == Bug::misaligned ? s.box + box_columns : s.box;
  if (threadIdx.x == 0) {
    mbarrier_init(&s.arrived, 1);
    fence_proxy_async();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const uint32_t inside = static_cast<uint32_t>((rows - row) * (columns - column) * 2);
    mbarrier_arrive_expect_tx(&s.arrived, bug == Bug::too_few_bytes ? inside : box_bytes);
    cp_async_bulk_tensor_2d(box, map, row, column, &s.arrived);
  }
  if (bug != Bug::not_waited_for) mbarrier_wait(&s.arrived, 0);
  for (int i = static_cast<int>(threadIdx.x); i < box_rows * box_columns; i += threads) {
    const int r = i / box_columns, chunk = i % box_columns / 8;
    out[i] = bug == Bug::not_swizzled ? box[i] : box[r * box_columns + (chunk ^ r % 8) * 8 + i % 8];
  }
}

bool copies_box(Bench& bench, int row, int column, Bug bug) {
  bench.needs(90, all_newer);
  const std::vector<uint16_t> matrix = random_bf16(rows * row_stride, 1);
  const uint64_t stride = bug == Bug::odd_stride ? row_stride - 4 : row_stride;
  const CUtensorMap map = tensor_map(bench.from(matrix), rows, bug == Bug::larger_map ? row_stride : columns, stride, box_rows);
  uint16_t* memory = bench.empty<uint16_t>(box_rows * box_columns);
  launch(bench.context(), copy_box_kernel, {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Shared)}, map, row,
         column, memory, bug);
  const std::vector<uint16_t> out = bench.read(memory, box_rows * box_columns);
  for (int r = 0; r < box_rows; ++r)
    for (int c = 0; c < box_columns; ++c) {
      const int y = row + r, x = column + c;
      const bool inside = y >= 0 && y < rows && x >= 0 && x < columns;
      const uint16_t expected = inside ? matrix[static_cast<size_t>(y * row_stride + x)] : uint16_t{0};
      if (out[static_cast<size_t>(r * box_columns + c)] != expected) return false;
    }
  return true;
}

PLANTED(box_read_as_if_not_swizzled) { return copies_box(bench, 3, 8, broken ? Bug::not_swizzled : Bug::none); }
PLANTED(box_is_not_waited_for) { return copies_box(bench, 3, 8, broken ? Bug::not_waited_for : Bug::none); }
PLANTED(box_beyond_the_end_of_a_map_that_is_too_large) {
  return copies_box(bench, 10, 40, broken ? Bug::larger_map : Bug::none);
}
PLANTED(box_before_the_beginning) { return copies_box(bench, -5, -24, broken ? Bug::not_swizzled : Bug::none); }
PLANTED(barrier_expects_only_what_is_inside) {
  return copies_box(bench, 10, 40, broken ? Bug::too_few_bytes : Bug::none);
}
PLANTED(box_misaligned) { return copies_box(bench, 0, 0, broken ? Bug::misaligned : Bug::none); }
PLANTED(tensor_map_of_rows_not_aligned) { return copies_box(bench, 0, 0, broken ? Bug::odd_stride : Bug::none); }

}  // namespace
}  // namespace qwen2::cuda::selftest
