#include "ops/sample/sample.h"

#include "core/contract.h"

namespace qwen2 {

void check(Contract& contract, const SampleArgs& args) {
  Dim B("B"), V("V"), words("⌈V/32⌉"), rows("rows"), starts("B + 1"), NB("NB"), L("L");
  Dim parameters("6", sample_parameters, "SampleParameter"), choices("5", sample_choices, "SampleChoice");
  contract.tensor("logits", args.logits, {&B, &V}, DType::f32);
  contract.tensor("parameters", args.parameters, {&B, &parameters}, DType::f32);
  contract.tensor("choices", args.choices, {&B, &choices}, DType::i32);
  contract.tensor("rows", args.rows, {&B}, DType::i32);
  words.value = (V.value + 31) / 32;
  words.fixed_by = "V";
  if (args.allowed.present()) contract.tensor("allowed", args.allowed, {&B, &words}, DType::i32);
  const bool biased = args.bias_starts.present();
  contract.require(biased == args.bias_ids.present() && biased == args.bias_values.present(),
                   "bias_starts, bias_ids and bias_values come together");
  if (biased) {
    contract.tensor("bias_starts", args.bias_starts, {&starts}, DType::i32);
    contract.tensor("bias_ids", args.bias_ids, {&NB}, DType::i32);
    contract.tensor("bias_values", args.bias_values, {&NB}, DType::f32);
    contract.require(starts.value == B.value + 1, "bias_starts must have one entry more than rows");
  }
  contract.require(args.prompt_masks.present() == args.counts.present(), "prompt_masks and counts come together");
  if (args.counts.present()) {
    contract.tensor("prompt_masks", args.prompt_masks, {&rows, &words}, DType::i32);
    contract.tensor("counts", args.counts, {&rows, &V}, DType::i32);
  }
  contract.tensor("tokens", args.tokens, {&B}, DType::i32);
  contract.tensor("logprobs", args.logprobs, {&B}, DType::f32);
  contract.tensor("ranks", args.ranks, {&B}, DType::i32);
  contract.require(args.top_ids.present() == args.top_logprobs.present(), "top_ids and top_logprobs come together");
  if (args.top_ids.present()) {
    contract.tensor("top_ids", args.top_ids, {&B, &L}, DType::i32);
    contract.tensor("top_logprobs", args.top_logprobs, {&B, &L}, DType::f32);
    contract.require(L.value <= V.value, "there are only V tokens to be the L most probable");
  }
  if (args.counts.present()) contract.alone("counts", args.counts);
  contract.alone("tokens", args.tokens);
  contract.alone("logprobs", args.logprobs);
  contract.alone("ranks", args.ranks);
  if (args.top_ids.present()) contract.alone("top_ids", args.top_ids);
  if (args.top_ids.present()) contract.alone("top_logprobs", args.top_logprobs);
}

void check(Contract& contract, const LoadHistoryArgs& args) {
  Dim P("P"), O("O"), V("V"), words("⌈V/32⌉"), rows("rows");
  contract.tensor("prompt", args.prompt, {&P}, DType::i32);
  contract.tensor("output", args.output, {&O}, DType::i32);
  contract.tensor("counts", args.counts, {&rows, &V}, DType::i32);
  words.value = (V.value + 31) / 32;
  words.fixed_by = "V";
  contract.tensor("prompt_masks", args.prompt_masks, {&rows, &words}, DType::i32);
  contract.require(args.row >= 0 && args.row < rows.value, "row must be one of the state's rows");
  contract.alone("prompt_masks", args.prompt_masks);
  contract.alone("counts", args.counts);
}

}  // namespace qwen2
