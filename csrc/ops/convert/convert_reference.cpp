#include "ops/convert/convert.h"
#include "reference/kernel.h"

namespace qwen2::reference {

void convert(const ConvertArgs& args) {
  for_activation(args.out.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t i = 0; i < args.source.elements(); ++i)
      args.out.as<T>()[i] = from_float<T>(element(args.source, args.source.data, i));
  });
}

}  // namespace qwen2::reference
