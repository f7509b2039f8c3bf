#include <cmath>

#include "ops/fill_random/fill_random.h"
#include "reference/kernel.h"

namespace qwen2::reference {

void fill_random(const FillRandomArgs& args) {
  const float spread = std::sqrt(3.0f) * args.std;
  for_activation(args.out.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t i = 0; i < args.out.elements(); ++i)
      args.out.as<T>()[i] = from_float<T>(random_value(args.seed, i, args.mean, spread));
  });
}

}  // namespace qwen2::reference
