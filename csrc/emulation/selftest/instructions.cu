// Words of csrc/cuda/ptx.h against plain arithmetic on random operands. On a GPU this is the proof that what we
// remember of an instruction is what it does; the emulation can't give it, because both come from the same memory.
#include "cuda/bf16.h"
#include "emulation/selftest/selftest.h"

namespace qwen2::cuda::selftest {
namespace {

constexpr size_t lanes = 32;

std::vector<float> random_floats(size_t count, uint32_t seed) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = random_float(static_cast<uint32_t>(i) + 4096 * seed);
  return values;
}

std::vector<uint32_t> random_words(size_t count, uint32_t seed) {
  std::vector<uint32_t> words(count);
  for (size_t i = 0; i < count; ++i)
    words[i] = static_cast<uint32_t>(i + 1) * 2654435761u ^ seed * 0x9E3779B9u ^ static_cast<uint32_t>(i) << 7;
  return words;
}

// --- Conversions and arithmetic ------------------------------------------------------------------------------------------

__global__ void convert_kernel(const float* in, uint32_t* out, bool broken) {
  const unsigned i = threadIdx.x;
  out[i] = broken ? cvt_bf16x2(in[2 * i + 1], in[2 * i]) : cvt_bf16x2(in[2 * i], in[2 * i + 1]);
}

PLANTED(conversion_to_bf16) {
  constexpr size_t count = 256;
  std::vector<float> in = random_floats(2 * count, 1);
  // Halfway between two bf16: to even, both ways; and what stays as it is.
  const float special[] = {1.00390625f, 1.01171875f, -1.00390625f, 0.0f, -0.0f, 1.0f, 3.3895314e38f, 1e-40f};
  std::copy(std::begin(special), std::end(special), in.begin());
  uint32_t* out = bench.empty<uint32_t>(count);
  launch(bench.context(), convert_kernel, {.blocks = 1, .threads = count}, bench.from(in), out, broken);
  const std::vector<uint32_t> pairs = bench.read(out, count);
  for (size_t i = 0; i < count; ++i)
    if (pairs[i] != (to_bf16(in[2 * i]).bits | uint32_t{to_bf16(in[2 * i + 1]).bits} << 16)) return false;
  return true;
}

__global__ void exponential_kernel(const float* in, float* out, bool broken) {
  out[threadIdx.x] = broken ? ex2_approx(-in[threadIdx.x]) : ex2_approx(in[threadIdx.x]);
}

PLANTED(exponential_of_two) {
  constexpr size_t count = 512;
  std::vector<float> in(count);
  for (size_t i = 0; i < count; ++i) in[i] = -120.0f + 0.47f * static_cast<float>(i);
  float* out = bench.empty<float>(count);
  launch(bench.context(), exponential_kernel, {.blocks = 1, .threads = count}, bench.from(in), out, broken);
  const std::vector<float> values = bench.read(out, count);
  for (size_t i = 0; i < count; ++i) {
    const double exact = std::exp2(static_cast<double>(in[i]));
    if (!(std::fabs(values[i] - exact) <= 0x1p-21 * exact)) return false;
  }
  return true;
}

// --- Loads and stores --------------------------------------------------------------------------------------------------

__global__ void streaming_kernel(const uint4* in, uint4* out, bool broken) {
  out[threadIdx.x] = load_streaming(in + (broken ? threadIdx.x ^ 1 : threadIdx.x));
}

PLANTED(streaming_load) {
  const std::vector<uint32_t> in = random_words(4 * lanes, 2);
  uint32_t* out = bench.empty<uint32_t>(in.size());
  launch(bench.context(), streaming_kernel, {.blocks = 1, .threads = lanes},
         reinterpret_cast<const uint4*>(bench.from(in)), reinterpret_cast<uint4*>(out), broken);
  return bench.read(out, in.size()) == in;
}

struct Matrices {
  alignas(16) uint16_t rows[lanes][8];  // four matrices of eight rows
};

enum class Way { load, load_transposed, store };

__global__ void matrices_kernel(const uint32_t* in, uint32_t* out, Way way, bool broken) {
  Matrices& matrices = shared<Matrices>();
  const int lane = lane_index();
  auto* words = reinterpret_cast<uint32_t*>(matrices.rows[lane]);
  uint32_t r[4];
  for (int i = 0; i < 4; ++i) {
    words[i] = way == Way::store ? 0 : in[4 * lane + i];
    r[i] = in[4 * lane + i];
  }
  __syncthreads();
  const void* row = matrices.rows[broken ? lane ^ 8 : lane];
  if (way == Way::load) ldmatrix_x4(r, row);
  if (way == Way::load_transposed) ldmatrix_x4_trans(r, row);
  if (way == Way::store) {
    stmatrix_x4(const_cast<void*>(row), r);
    __syncthreads();
    for (int i = 0; i < 4; ++i) r[i] = words[i];
  }
  for (int i = 0; i < 4; ++i) out[4 * lane + i] = r[i];
}

// Element (row, column) of matrix m of the words that were given: row 8m + row of shared memory.
uint16_t element(const std::vector<uint32_t>& words, size_t m, size_t row, size_t column) {
  return static_cast<uint16_t>(words[4 * (8 * m + row) + column / 2] >> 16 * (column % 2));
}

bool moves_matrices(Bench& bench, Way way, bool broken) {
  const std::vector<uint32_t> in = random_words(4 * lanes, 3);
  uint32_t* memory = bench.empty<uint32_t>(in.size());
  launch(bench.context(), matrices_kernel, {.blocks = 1, .threads = lanes, .shared_bytes = sizeof(Matrices)},
         bench.from(in), memory, way, broken);
  const std::vector<uint32_t> out = bench.read(memory, in.size());
  for (size_t lane = 0; lane < lanes; ++lane)
    for (size_t m = 0; m < 4; ++m)
      for (size_t i = 0; i < 2; ++i) {
        const size_t row = lane / 4, column = 2 * (lane % 4) + i;
        const auto held = [&](const std::vector<uint32_t>& r) { return static_cast<uint16_t>(r[4 * lane + m] >> 16 * i); };
        if (way == Way::load && held(out) != element(in, m, row, column)) return false;
        if (way == Way::load_transposed && held(out) != element(in, m, column, row)) return false;
        if (way == Way::store && element(out, m, row, column) != held(in)) return false;
      }
  return true;
}

PLANTED(matrix_load) { return moves_matrices(bench, Way::load, broken); }
PLANTED(matrix_load_transposed) { return moves_matrices(bench, Way::load_transposed, broken); }
PLANTED(matrix_store) {
  bench.needs(90, all_newer);
  return moves_matrices(bench, Way::store, broken);
}

// --- Tensor cores ------------------------------------------------------------------------------------------------------

__global__ void product_kernel(const uint16_t* a, const uint16_t* b, float* d, bool broken) {
  const int lane = lane_index(), g = lane / 4, t = 2 * (lane % 4);
  const auto pair = [](const uint16_t* at) { return at[0] | uint32_t{at[1]} << 16; };
  const uint32_t fragment_a[4] = {pair(a + g * 16 + t), pair(a + (g + 8) * 16 + t), pair(a + g * 16 + t + 8),
                                  pair(a + (g + 8) * 16 + t + 8)};
  const uint32_t fragment_b[2] = {pair(b + g * 16 + t), pair(b + g * 16 + t + 8)};
  float sums[4] = {1, 2, 3, 4};
  mma_m16n8k16(sums, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) d[(g + 8 * (i / 2)) * 8 + t + (broken ? 1 - i % 2 : i % 2)] = sums[i] - static_cast<float>(i + 1);
}

// bf16 operands of full precision; a sum of 16 products is held to the error of adding them in fp32.
PLANTED(product_of_matrices) {
  std::vector<uint16_t> a(256), b(128);
  for (uint32_t i = 0; i < 256; ++i) a[i] = to_bf16(std::remainder(random_float(i), 2.0f)).bits;
  for (uint32_t i = 0; i < 128; ++i) b[i] = to_bf16(std::remainder(random_float(i + 999), 2.0f)).bits;
  float* memory = bench.empty<float>(128);
  launch(bench.context(), product_kernel, {.blocks = 1, .threads = lanes}, bench.from(a), bench.from(b), memory, broken);
  const std::vector<float> d = bench.read(memory, 128);
  for (size_t i = 0; i < 16; ++i)
    for (size_t j = 0; j < 8; ++j) {
      double exact = 0, magnitude = 4;
      for (size_t k = 0; k < 16; ++k) {
        const double product = static_cast<double>(to_float(bf16{a[i * 16 + k]})) * to_float(bf16{b[j * 16 + k]});
        exact += product;
        magnitude += std::fabs(product);
      }
      if (!(std::fabs(d[i * 8 + j] - exact) <= 0x1p-19 * magnitude)) return false;
    }
  return true;
}

}  // namespace
}  // namespace qwen2::cuda::selftest
