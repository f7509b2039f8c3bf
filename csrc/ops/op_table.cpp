#include "core/contract.h"
#include "ops/ops.h"

namespace qwen2 {

std::span<const OpInfo> op_table() {
  static constexpr OpInfo table[] = {
#define QWEN2_OP(name, Args)                                                            \
  {#name, sizeof(Args), fields_of(static_cast<const Args*>(nullptr)),                   \
   [](Contract& contract, const void* args) { check(contract, *static_cast<const Args*>(args)); }},
#include "ops/ops.def"
#undef QWEN2_OP
  };
  return table;
}

}  // namespace qwen2
