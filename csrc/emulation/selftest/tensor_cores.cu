// mma and the loads that feed it: fragments in their places.
#include "emulation/selftest/selftest.h"

namespace qwen2::cuda::selftest {
namespace {

struct Operands {
  uint16_t a[16][16];
  uint16_t b[8][16];  // columns of b, k contiguous
};

enum class Bug { none, matrices_swapped, not_transposed, rows_swapped, misaligned };

// d[16, 8] = a[16, 16] · b[16, 8], small integers, so that every sum is exact.
__global__ void multiply_kernel(const uint16_t* a, const uint16_t* b, float* d, Bug bug) {
  Operands& operands = shared<Operands>();
  const int lane = lane_index();
  for (int i = lane; i < 256; i += 32) operands.a[i / 16][i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) operands.b[i / 16][i % 16] = b[i];
  __syncthreads();
  uint32_t fragment_a[4], fragment_b[4];
  const int row = lane % 16, column = lane / 16 * 8;
  ldmatrix_x4(fragment_a, bug == Bug::matrices_swapped ? &operands.a[lane / 16 * 8 + lane % 8][lane / 8 % 2 * 8]
                          : bug == Bug::misaligned     ? &operands.a[row][column + 1]
                                                       : &operands.a[row][column]);
  const uint16_t* b_row = &operands.b[lane % 8][lane / 8 % 2 * 8];
  if (bug == Bug::not_transposed) {
    ldmatrix_x4_trans(fragment_b, b_row);
  } else {
    ldmatrix_x4(fragment_b, b_row);
  }
  float sums[4] = {};
  mma_m16n8k16(sums, fragment_a, {fragment_b[0], fragment_b[1]});
  const int g = lane / 4, t = 2 * (lane % 4), second = bug == Bug::rows_swapped ? 0 : 8;
  d[(g + 8 - second) * 8 + t] = sums[0];
  d[(g + 8 - second) * 8 + t + 1] = sums[1];
  d[(g + second) * 8 + t] = sums[2];
  d[(g + second) * 8 + t + 1] = sums[3];
}

bool multiplies(Bench& bench, Bug bug) {
  std::vector<uint16_t> a(256), b(128);
  std::vector<float> expected(128);
  const auto value = [](size_t i) { return static_cast<float>(i * 7 % 13) - 6; };
  for (size_t i = 0; i < a.size(); ++i) a[i] = to_bf16(value(i)).bits;
  for (size_t i = 0; i < b.size(); ++i) b[i] = to_bf16(value(i + 5)).bits;
  for (size_t i = 0; i < 16; ++i)
    for (size_t j = 0; j < 8; ++j)
      for (size_t k = 0; k < 16; ++k) expected[i * 8 + j] += value(i * 16 + k) * value(j * 16 + k + 5);
  float* d = bench.empty<float>(128);
  launch(bench.context(), multiply_kernel, {.blocks = 1, .threads = 32, .shared_bytes = sizeof(Operands)},
         bench.from(a), bench.from(b), d, bug);
  return bench.read(d, 128) == expected;
}

PLANTED(fragments_of_a_swapped) { return multiplies(bench, broken ? Bug::matrices_swapped : Bug::none); }
PLANTED(fragment_of_b_transposed) { return multiplies(bench, broken ? Bug::not_transposed : Bug::none); }
PLANTED(rows_of_d_swapped) { return multiplies(bench, broken ? Bug::rows_swapped : Bug::none); }
PLANTED(matrix_row_misaligned) { return multiplies(bench, broken ? Bug::misaligned : Bug::none); }

}  // namespace
}  // namespace qwen2::cuda::selftest
