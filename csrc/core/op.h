// How an operation describes itself: its argument struct declares its fields once, and marshalling, checking and
// dispatch are generic over that declaration.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "core/tensor.h"

namespace qwen2 {

class Contract;

enum class FieldType : int32_t { tensor = 0, optional_tensor = 1, i32 = 2, f32 = 3, dtype = 4 };

struct Field {
  const char* name;
  FieldType type;
  uint32_t offset;
};

template <typename T>
constexpr FieldType field_type() {
  if constexpr (std::is_same_v<T, OptionalTensor>) return FieldType::optional_tensor;
  if constexpr (std::is_same_v<T, Tensor>) return FieldType::tensor;
  if constexpr (std::is_same_v<T, int32_t>) return FieldType::i32;
  if constexpr (std::is_same_v<T, float>) return FieldType::f32;
  if constexpr (std::is_same_v<T, DType>) return FieldType::dtype;
}

struct OpInfo {
  const char* name;
  uint32_t args_size;
  std::span<const Field> fields;
  void (*check)(Contract&, const void* args);
};

// Runs one operation on the stream behind `context`. Returns 0, or 1 with "code: message" in `error`: a C signature,
// because a device may live in a library of its own.
using Kernel = int32_t (*)(void* context, const void* args, uint32_t args_size, char* error, uint32_t error_size);

}  // namespace qwen2

// QWEN2_FIELDS(RmsNormArgs, x, weight, out, eps) declares the fields of an argument struct, in their order.
#define QWEN2_PARENS ()
#define QWEN2_EXPAND(...) QWEN2_EXPAND2(QWEN2_EXPAND2(QWEN2_EXPAND2(QWEN2_EXPAND2(__VA_ARGS__))))
#define QWEN2_EXPAND2(...) QWEN2_EXPAND1(QWEN2_EXPAND1(QWEN2_EXPAND1(QWEN2_EXPAND1(__VA_ARGS__))))
#define QWEN2_EXPAND1(...) __VA_ARGS__
#define QWEN2_EACH(struct, ...) __VA_OPT__(QWEN2_EXPAND(QWEN2_EACH_STEP(struct, __VA_ARGS__)))
#define QWEN2_EACH_STEP(struct, name, ...)                                               \
  {#name, ::qwen2::field_type<decltype(struct ::name)>(), offsetof(struct, name)},       \
      __VA_OPT__(QWEN2_EACH_AGAIN QWEN2_PARENS(struct, __VA_ARGS__))
#define QWEN2_EACH_AGAIN() QWEN2_EACH_STEP
#define QWEN2_FIELDS(struct, ...)                                                        \
  inline constexpr ::qwen2::Field struct##_fields[] = {QWEN2_EACH(struct, __VA_ARGS__)}; \
  constexpr std::span<const ::qwen2::Field> fields_of(const struct*) { return struct##_fields; }
