// JavaScript's operation arguments to an argument struct.
#pragma once

#include <functional>
#include <memory>

#include "core/stream.h"

namespace qwen2::addon {

// A tensor is this many numbers: storage id (0: absent), byte offset, dtype, layout, rank, shape × 4, strides × 4.
constexpr int tensor_numbers = 14;

using FindStorage = std::function<std::shared_ptr<Storage>(double id)>;

// Reads the fields of operation `op`, in order, from `numbers`: 13 a tensor, 1 a scalar. Checks that every tensor lies
// within its storage, on `device`, and the operation's contract. Throws Error.
OpCall read_call(const Device& device, uint32_t op, const double* numbers, size_t count, const FindStorage& storage);

}  // namespace qwen2::addon
