#include "addon/marshal.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/contract.h"
#include "core/describe.h"
#include "ops/ops.h"

namespace qwen2::addon {
namespace {

constexpr double largest_exact = 9007199254740992.0;  // 2^53

int64_t whole(const OpInfo& op, const Field& field, double number, double low, double high) {
  if (!(number >= low && number <= high) || number != std::floor(number))
    fail("invalid_argument", "%s: %s must be made of whole numbers from %.0f to %.0f, found %g", op.name, field.name,
         low, high, number);
  return static_cast<int64_t>(number);
}

// Bytes from the first to the last element.
uint64_t extent(const Device& device, const Tensor& t) {
  if (t.elements() == 0) return 0;
  if (t.layout != Layout::strided)
    return device.api().packed_bytes(device.handle(), static_cast<int32_t>(t.dtype), t.shape[0], t.shape[1],
                                     t.group);
  int64_t last = 0;
  for (int i = 0; i < t.rank; ++i) last += (t.shape[i] - 1) * t.strides[i];
  return static_cast<uint64_t>(last + 1) * static_cast<uint64_t>(size_of(t.dtype));
}

std::shared_ptr<Storage> read_tensor(const Device& device, const OpInfo& op, const Field& field, const double* numbers,
                                     const FindStorage& find, Tensor* t) {
  std::shared_ptr<Storage> storage = find(numbers[0]);
  if (!storage) fail("disposed", "%s: the storage of %s was disposed", op.name, field.name);
  if (storage->device().get() != &device)
    fail("invalid_argument", "%s: %s is on %s, the stream is on %s", op.name, field.name,
         storage->device()->name().c_str(), device.name().c_str());
  const int64_t offset = whole(op, field, numbers[1], 0, static_cast<double>(storage->bytes()));
  t->data = static_cast<std::byte*>(storage->data()) + offset;
  t->bytes = static_cast<int64_t>(storage->bytes()) - offset;
  t->dtype = static_cast<DType>(whole(op, field, numbers[2], 0, static_cast<double>(last_dtype)));
  t->layout = static_cast<Layout>(whole(op, field, numbers[3], 0, static_cast<double>(Layout::swiglu_weight)));
  t->rank = static_cast<int32_t>(whole(op, field, numbers[4], 0, max_rank));
  t->group = static_cast<int32_t>(whole(op, field, numbers[13], 0, 128));
  if (is_quantized(t->dtype) ? t->layout == Layout::strided || !is_group(t->group) : t->group != 0)
    fail("invalid_argument", "%s: %s is %s with groups of %d; packed int4 and int8 have groups of 32, 64 or 128, others none",
         op.name, field.name, name_of(t->dtype), t->group);
  double elements = 1, reach = 1;
  for (int i = 0; i < t->rank; ++i) {
    t->shape[i] = whole(op, field, numbers[5 + i], 0, largest_exact);
    t->strides[i] = whole(op, field, numbers[9 + i], 0, largest_exact);
    elements *= std::max(numbers[5 + i], 1.0);
    reach += numbers[5 + i] * numbers[9 + i];
  }
  if (elements > largest_exact || reach > largest_exact || (t->layout != Layout::strided && t->rank != 2) ||
      offset % size_of(t->dtype) != 0 || extent(device, *t) > static_cast<uint64_t>(t->bytes))
    fail("invalid_argument", "%s: %s %s does not fit into its storage of %llu bytes at offset %lld", op.name,
         field.name, to_string(*t).c_str(), static_cast<unsigned long long>(storage->bytes()),
         static_cast<long long>(offset));
  return storage;
}

}  // namespace

OpCall read_call(const Device& device, uint32_t op_index, const double* numbers, size_t count,
                 const FindStorage& find) {
  if (op_index >= op_table().size()) fail("invalid_argument", "there is no operation number %u", op_index);
  const OpInfo& op = op_table()[op_index];
  OpCall call{&op, device.api().kernels[op_index], std::vector<std::byte>(op.args_size), {}};
  const double* const end = numbers + count;
  for (const Field& field : op.fields) {
    std::byte* at = call.args.data() + field.offset;
    const bool is_tensor = field.type == FieldType::tensor || field.type == FieldType::optional_tensor;
    if (end - numbers < (is_tensor ? tensor_numbers : 1))
      fail("invalid_argument", "%s: arguments end before %s", op.name, field.name);
    if (is_tensor) {
      if (numbers[0] != 0) {
        Tensor t{};
        call.pins.push_back(read_tensor(device, op, field, numbers, find, &t));
        std::memcpy(at, &t, sizeof t);
      } else if (field.type == FieldType::tensor) {
        fail("invalid_argument", "%s: %s is missing", op.name, field.name);
      }
      numbers += tensor_numbers;
    } else if (field.type == FieldType::i32) {
      const auto value = static_cast<int32_t>(whole(op, field, *numbers++, std::numeric_limits<int32_t>::min(),
                                                    std::numeric_limits<int32_t>::max()));
      std::memcpy(at, &value, sizeof value);
    } else if (field.type == FieldType::dtype) {
      const auto value = static_cast<DType>(whole(op, field, *numbers++, 0, static_cast<double>(last_dtype)));
      std::memcpy(at, &value, sizeof value);
    } else {
      const auto value = static_cast<float>(*numbers++);
      std::memcpy(at, &value, sizeof value);
    }
  }
  Contract contract(device, op, call.args.data());
  op.check(contract, call.args.data());
  return call;
}

}  // namespace qwen2::addon
