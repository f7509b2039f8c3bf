// Checks an operation's arguments against its contract, and says what is wrong in the contract's own letters.
#pragma once

#include <initializer_list>
#include <string>

#include "core/device.h"
#include "core/op.h"

namespace qwen2 {

// A dimension of a contract, such as T: the first tensor that has it fixes it, the others must agree.
struct Dim {
  const char* name;
  int64_t value = -1;
  const char* fixed_by = nullptr;

  explicit Dim(const char* dim_name) : name(dim_name) {}
  Dim(const char* dim_name, int64_t fixed_value, const char* fixed_by_name)
      : name(dim_name), value(fixed_value), fixed_by(fixed_by_name) {}
};

// The dtypes a tensor may have.
class DTypes {
 public:
  constexpr DTypes(DType one) : mask_(1u << static_cast<int>(one)) {}
  constexpr DTypes operator|(DTypes other) const { return DTypes(mask_ | other.mask_); }
  constexpr bool contains(DType dtype) const { return mask_ >> static_cast<int>(dtype) & 1u; }
  std::string to_string() const;

 private:
  constexpr explicit DTypes(unsigned mask) : mask_(mask) {}
  unsigned mask_;
};
constexpr DTypes operator|(DType a, DType b) { return DTypes(a) | DTypes(b); }

// Activations are bf16; `reference` also computes in f32, which is how model code is held to tight tolerances.
inline constexpr DTypes activation = DType::bf16 | DType::f32;

class Contract {
 public:
  Contract(const Device& device, const OpInfo& op, const void* args) : device_(device), op_(op), args_(args) {}

  // Strided layout; the last dimension contiguous, rows (dimension 0 of several) may be further apart than they are long.
  // There may be no rows, but no rows of nothing.
  void tensor(const char* name, const Tensor& t, std::initializer_list<Dim*> shape, DTypes dtypes);
  // A weight in the device's own layout.
  void weight(const char* name, const Tensor& t, std::initializer_list<Dim*> shape, DTypes dtypes, Layout layout);
  // x[T, K] · weight[N, K]ᵀ + bias[N] → out[T, N], of the dtype of x or f32; out is alone.
  void product(const Tensor& x, const Tensor& weight, DType weight_dtype, const OptionalTensor& bias, const Tensor& out);
  // What a block of the KV cache holds: checked before kv_cache, which measures the device's blocks of `dtype`.
  void kv_shape(int32_t kv_heads, int32_t head_dim, int32_t block_size);
  void kv_cache(const char* name, const Tensor& t, DType dtype, DType activations, int32_t kv_heads, int32_t head_dim,
                int32_t block_size);
  void same_dtype(const char* a_name, const Tensor& a, const char* b_name, const Tensor& b);
  // What an operation writes overlaps nothing else that it is given: a kernel may read its arguments, indices that it has
  // checked among them, while it writes. Rows may lie in the gaps between other rows.
  void alone(const char* name, const Tensor& t);
  void disjoint(const char* a_name, const Tensor& a, const char* b_name, const Tensor& b);
  void same_or_disjoint(const char* a_name, const Tensor& a, const char* b_name, const Tensor& b);
  // An argument that is 0 or 1.
  void flag(const char* name, int32_t value);
  // Fails with the message unless the condition holds. Formats like printf.
  void require(bool condition, const char* format, ...) __attribute__((format(printf, 3, 4)));

 private:
  void dims(const char* name, const Tensor& t, std::initializer_list<Dim*> shape, DTypes dtypes);
  bool overlap(const Tensor& a, const Tensor& b) const;
  [[noreturn]] void violated(const std::string& message) const;

  const Device& device_;
  const OpInfo& op_;
  const void* args_;
};

}  // namespace qwen2
