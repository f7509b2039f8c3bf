#include "ops/token_logprobs/token_logprobs.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const TokenLogprobsArgs& args) {
  Dim T("T"), V("V"), L("L");
  contract.tensor("logits", args.logits, {&T, &V}, DType::f32);
  contract.tensor("targets", args.targets, {&T}, DType::i32);
  contract.tensor("logprobs", args.logprobs, {&T}, DType::f32);
  contract.tensor("ranks", args.ranks, {&T}, DType::i32);
  contract.require(args.top_ids.present() == args.top_logprobs.present(), "top_ids and top_logprobs come together");
  contract.alone("logprobs", args.logprobs);
  contract.alone("ranks", args.ranks);
  if (!args.top_ids.present()) return;
  contract.tensor("top_ids", args.top_ids, {&T, &L}, DType::i32);
  contract.tensor("top_logprobs", args.top_logprobs, {&T, &L}, DType::f32);
  contract.require(L.value <= V.value, "there are only V tokens to be the L most probable");
  contract.alone("top_ids", args.top_ids);
  contract.alone("top_logprobs", args.top_logprobs);
}

}  // namespace qwen2
