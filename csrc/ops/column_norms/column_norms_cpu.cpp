#include "cpu/simd.h"
#include "ops/column_norms/column_norms.h"

namespace qwen2::cpu::QWEN2_SIMD {
namespace {

constexpr int64_t piece = 64;  // columns whose sums stay in registers, a multiple of lanes
constexpr int64_t words = piece / lanes;

// Columns first … first + count.
template <typename T>
void sum_piece(const ColumnNormsArgs& args, int64_t first, int64_t count) {
  F32 sums[words];
  for (F32& sum : sums) sum = zero();
  for (int64_t t = 0; t < args.a.shape[0]; ++t) {
    const T* a = args.a.row<T>(t) + first;
    const T* b = args.b.present() ? args.b.row<T>(t) + first : nullptr;
    for (int64_t i = 0; i < words; ++i) {
      const int64_t left = count - i * lanes;
      if (left <= 0) break;
      const int here = static_cast<int>(left < lanes ? left : lanes);
      const F32 x = load(a + i * lanes, here);
      const F32 distance = b != nullptr ? abs(sub(x, load(b + i * lanes, here))) : abs(x);
      sums[i] = args.power == 1 ? add(sums[i], distance) : fma(distance, distance, sums[i]);
    }
  }
  for (int64_t i = 0; i < words; ++i) {
    const int64_t left = count - i * lanes;
    if (left <= 0) break;
    store(args.out.as<float>() + first + i * lanes, sums[i], static_cast<int>(left < lanes ? left : lanes));
  }
}

}  // namespace

void column_norms(Context& context, const ColumnNormsArgs& args) {
  const int64_t columns = args.a.shape[1], pieces = (columns + piece - 1) / piece;
  parallel(context, pieces, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item * piece, count = columns - first < piece ? columns - first : piece;
      if (args.a.dtype == DType::bf16)
        sum_piece<bf16>(args, first, count);
      else
        sum_piece<float>(args, first, count);
    }
  });
}

}  // namespace qwen2::cpu::QWEN2_SIMD
