#include "cuda/elementwise.h"
#include "ops/token_logprobs/token_logprobs.h"

namespace qwen2::cuda {
void token_logprobs(Context&, const TokenLogprobsArgs&) { fail("unsupported", "token_logprobs is not there yet"); }
}  // namespace qwen2::cuda
