#include "cuda/calls.h"

#include "core/describe.h"

namespace qwen2::cuda {

void Calls::begin(const OpInfo& op, const void* args) {
  launching_.number = -1;
  launching_.op = &op;
  args_ = args;
}

int32_t Calls::current() {
  if (launching_.op == nullptr) return -1;
  if (launching_.number >= 0) return launching_.number;
  const auto* bytes = static_cast<const std::byte*>(args_);
  launching_.args.assign(bytes, bytes + launching_.op->args_size);
  if (capturing_) {
    launching_.number = first_captured + static_cast<int32_t>(captured_.size());
    captured_.push_back(launching_);
  } else {
    recent_.resize(remembered);
    launching_.number = next_;
    recent_[static_cast<size_t>(next_ % remembered)] = launching_;
    next_ = (next_ + 1) % first_captured;
  }
  return launching_.number;
}

std::string Calls::describe(int32_t number) const {
  if (number < 0) return "";
  const bool is_captured = number >= first_captured;
  const std::vector<Call>& calls = is_captured ? captured_ : recent_;
  const Call& call = calls[static_cast<size_t>(is_captured ? number - first_captured : number % remembered)];
  return call.number == number ? "; in " + describe_call(*call.op, call.args.data()) : "";
}

}  // namespace qwen2::cuda
