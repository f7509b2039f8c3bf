#include "core/describe.h"

#include <cstdio>

namespace qwen2 {

std::string to_string(const Tensor& t) {
  std::string text = name_of(t.dtype);
  text += "[";
  for (int i = 0; i < t.rank; ++i) text += (i ? ", " : "") + std::to_string(t.shape[i]);
  text += "]";
  if (is_quantized(t.dtype)) text += " in groups of " + std::to_string(t.group);
  if (t.layout != Layout::strided) return text + " packed";
  double expected = 1;  // what is described may be wrong, and of any size
  bool contiguous = true;
  for (int i = t.rank - 1; i >= 0; --i) {
    contiguous = contiguous && (t.shape[i] == 1 || static_cast<double>(t.strides[i]) == expected);
    expected *= static_cast<double>(t.shape[i]);
  }
  if (contiguous) return text;
  text += " strides [";
  for (int i = 0; i < t.rank; ++i) text += (i ? ", " : "") + std::to_string(t.strides[i]);
  return text + "]";
}

std::string describe_call(const OpInfo& op, const void* args) {
  std::string text = op.name;
  text += "(";
  for (const Field& field : op.fields) {
    const char* at = static_cast<const char*>(args) + field.offset;
    if (&field != op.fields.data()) text += ", ";
    text += field.name;
    text += " ";
    char number[32];
    switch (field.type) {
      case FieldType::tensor:
      case FieldType::optional_tensor: {
        const Tensor& t = *reinterpret_cast<const Tensor*>(at);
        text += t.data == nullptr && field.type == FieldType::optional_tensor ? "none" : to_string(t);
        break;
      }
      case FieldType::i32:
        text += std::to_string(*reinterpret_cast<const int32_t*>(at));
        break;
      case FieldType::f32:
        std::snprintf(number, sizeof number, "%g", static_cast<double>(*reinterpret_cast<const float*>(at)));
        text += number;
        break;
      case FieldType::dtype:
        text += name_of(*reinterpret_cast<const DType*>(at));
        break;
    }
  }
  return text + ")";
}

}  // namespace qwen2
