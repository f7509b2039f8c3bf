#include "ops/convert/convert.h"
#include "reference/kernel.h"

namespace qwen2::reference {

void convert(const ConvertArgs& args) {
  float* out = args.out.as<float>();
  for (int64_t i = 0; i < args.source.shape[0]; ++i) out[i] = element(args.source, args.source.data, i);
}

}  // namespace qwen2::reference
