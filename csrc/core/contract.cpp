#include "core/contract.h"

#include <cstdarg>
#include <cstdio>

#include "core/describe.h"
#include "core/error.h"
#include "core/kv_cache.h"

namespace qwen2 {
namespace {

std::string to_string(std::initializer_list<Dim*> shape) {
  std::string text = "[";
  for (const Dim* dim : shape) {
    if (text.size() > 1) text += ", ";
    text += dim->name;
    if (dim->value >= 0) text += "=" + std::to_string(dim->value);
  }
  return text + "]";
}

bool rows_are_contiguous(const Tensor& t) {
  int64_t expected = 1;
  for (int i = t.rank - 1; i > 0; --i) {
    if (t.shape[i] != 1 && t.strides[i] != expected) return false;
    expected *= t.shape[i];
  }
  if (t.rank == 0 || t.shape[0] <= 1) return true;
  return t.rank == 1 ? t.strides[0] == 1 : t.strides[0] >= expected;
}

// Where a tensor lies: rows of bytes, or a packed weight as one row.
struct Rows {
  const char* begin;
  int64_t count = 1, length, stride;

  Rows(const Device& device, const Tensor& t) : begin(t.as<const char>()) {
    if (t.elements() == 0) count = 0;
    if (t.layout != Layout::strided) {
      length = static_cast<int64_t>(
          device.api().packed_bytes(device.handle(), static_cast<int32_t>(t.dtype), t.shape[0], t.shape[1], t.group));
    } else {
      if (count > 0 && t.rank > 0) count = t.shape[0];
      length = count > 0 ? t.elements() / count * size_of(t.dtype) : 0;
    }
    stride = count > 1 ? t.strides[0] * size_of(t.dtype) : length;
  }
  const char* end() const { return begin + (count - 1) * stride + length; }
};

}  // namespace

std::string DTypes::to_string() const {
  std::string text;
  for (DType dtype : {DType::f32, DType::f16, DType::bf16, DType::i32, DType::u8, DType::int4, DType::int8,
                      DType::fp8}) {
    if (!contains(dtype)) continue;
    if (!text.empty()) text += " or ";
    text += name_of(dtype);
  }
  return text;
}

void Contract::tensor(const char* name, const Tensor& t, std::initializer_list<Dim*> shape, DTypes dtypes) {
  dims(name, t, shape, dtypes);
  if (t.layout != Layout::strided) violated(std::string(name) + " must be a plain tensor, not a packed weight");
  if (!rows_are_contiguous(t)) violated(std::string(name) + " must have contiguous rows that do not overlap");
}

void Contract::weight(const char* name, const Tensor& t, std::initializer_list<Dim*> shape, DTypes dtypes,
                      Layout layout) {
  dims(name, t, shape, dtypes);
  if (t.layout != layout) violated(std::string(name) + " must be a weight packed for this operation");
  if (is_quantized(t.dtype) && t.shape[1] % t.group != 0)
    violated(std::string(name) + " must have columns that are a multiple of its group of " + std::to_string(t.group));
}

void Contract::product(const Tensor& x, const Tensor& weight_tensor, DType weight_dtype, const OptionalTensor& bias,
                       const Tensor& out) {
  Dim T("T"), K("K"), N("N");
  tensor("x", x, {&T, &K}, activation);
  weight("weight", weight_tensor, {&N, &K}, weight_dtype, Layout::linear_weight);
  if (bias.present()) tensor("bias", bias, {&N}, DType::f32);
  tensor("out", out, {&T, &N}, activation);
  if (out.dtype != DType::f32) same_dtype("x", x, "out", out);
  alone("out", out);
}

void Contract::same_dtype(const char* a_name, const Tensor& a, const char* b_name, const Tensor& b) {
  if (a.dtype == b.dtype) return;
  violated(std::string(a_name) + " and " + b_name + " must have the same dtype, they have " + name_of(a.dtype) +
           " and " + name_of(b.dtype));
}

void Contract::kv_shape(int32_t kv_heads, int32_t head_dim, int32_t block_size) {
  require(kv_heads > 0, "num_kv_heads must be positive");
  require(head_dim > 0 && head_dim % 2 == 0 && head_dim <= max_head_dim, "head_dim must be even, at most %d",
          max_head_dim);
  require(block_size > 0 && block_size % 16 == 0 && block_size <= max_block_size,
          "block_size must be a multiple of 16, at most %d", max_block_size);
}

void Contract::kv_cache(const char* name, const Tensor& t, DType dtype, DType activations, int32_t kv_heads,
                        int32_t head_dim, int32_t block_size) {
  require(dtype == activations || is_quantized_cache(dtype), "cache_dtype must be fp8, int8, or %s as the activations",
          name_of(activations));
  require(!is_quantized_cache(dtype) || head_dim % quantized_head_dim == 0,
          "head_dim must be a multiple of %d for a cache of %s", static_cast<int>(quantized_head_dim), name_of(dtype));
  const uint64_t bytes = device_.api().kv_block_bytes(device_.handle(), static_cast<int32_t>(dtype), kv_heads, head_dim,
                                                      block_size);
  Dim blocks("blocks"), block_bytes("kv_block_bytes", static_cast<int64_t>(bytes), "cache_dtype, heads, head_dim and block_size");
  tensor(name, t, {&blocks, &block_bytes}, DType::u8);
  constexpr int64_t alignment = 16;
  require(reinterpret_cast<uintptr_t>(t.data) % alignment == 0 && (t.shape[0] <= 1 || t.strides[0] % alignment == 0),
          "%s must have its blocks at multiples of %d bytes", name, static_cast<int>(alignment));
}

bool Contract::overlap(const Tensor& a_tensor, const Tensor& b_tensor) const {
  const Rows a(device_, a_tensor), b(device_, b_tensor);
  if (a.count == 0 || b.count == 0 || a.end() <= b.begin || b.end() <= a.begin) return false;
  if (a.stride != b.stride) return true;
  const int64_t shift = ((b.begin - a.begin) % a.stride + a.stride) % a.stride;
  return shift < a.length || shift + b.length > a.stride;
}

void Contract::alone(const char* name, const Tensor& t) {
  for (const Field& field : op_.fields) {
    if (field.type != FieldType::tensor && field.type != FieldType::optional_tensor) continue;
    const Tensor& other = *reinterpret_cast<const Tensor*>(static_cast<const char*>(args_) + field.offset);
    if (&other != &t && other.data != nullptr) disjoint(name, t, field.name, other);
  }
}

void Contract::disjoint(const char* a_name, const Tensor& a, const char* b_name, const Tensor& b) {
  if (overlap(a, b)) violated(std::string(a_name) + " must not overlap " + b_name);
}

void Contract::same_or_disjoint(const char* a_name, const Tensor& a, const char* b_name, const Tensor& b) {
  if (a.data == b.data && (a.shape[0] <= 1 || a.strides[0] == b.strides[0])) return;
  if (overlap(a, b)) violated(std::string(a_name) + " must be " + b_name + " itself or not overlap it");
}

void Contract::flag(const char* name, int32_t value) { require(value == 0 || value == 1, "%s must be 0 or 1", name); }

void Contract::require(bool condition, const char* format, ...) {
  if (condition) return;
  va_list arguments;
  va_start(arguments, format);
  char text[512];
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  violated(text);
}

void Contract::dims(const char* name, const Tensor& t, std::initializer_list<Dim*> shape, DTypes dtypes) {
  if (!dtypes.contains(t.dtype)) violated(std::string(name) + " must be " + dtypes.to_string());
  if (t.rank != static_cast<int>(shape.size())) violated(std::string(name) + " must be " + to_string(shape));
  int i = 0;
  for (Dim* dim : shape) {
    const int64_t size = t.shape[i++];
    if (i > 1 && size == 0) violated(std::string(name) + " must be " + to_string(shape) + " with rows that are not empty");
    if (dim->value < 0) {
      dim->value = size;
      dim->fixed_by = name;
    } else if (dim->value != size) {
      violated(std::string(name) + " must be " + to_string(shape) + ": " + dim->name + " is set by " + dim->fixed_by);
    }
  }
}

void Contract::violated(const std::string& message) const {
  throw Error("invalid_argument", std::string(op_.name) + ": " + message + "; got " + describe_call(op_, args_));
}

}  // namespace qwen2
