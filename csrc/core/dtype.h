// Element types, and the conversions between them that every device must agree on.
#pragma once

#include <bit>
#include <cstdint>

// For what kernels on the host and on a GPU share.
#if defined(__CUDACC__)
#define QWEN2_HOST_DEVICE __host__ __device__
#else
#define QWEN2_HOST_DEVICE
#endif

namespace qwen2 {

// int4 and int8 are what a packed weight holds: whole numbers with a scale, and a zero for int4, for each group of columns
// of a row. fp8 and int8 are what a KV cache holds beside the activations' dtypes (core/kv_cache.h). All three exist in
// layouts of the devices' own only.
enum class DType : int32_t { f32 = 0, f16 = 1, bf16 = 2, i32 = 3, u8 = 4, int4 = 5, int8 = 6, fp8 = 7 };
constexpr DType last_dtype = DType::fp8;

// Of a packed weight.
constexpr bool is_quantized(DType dtype) { return dtype == DType::int4 || dtype == DType::int8; }

// Columns that may share a scale.
constexpr bool is_group(int32_t group) { return group == 32 || group == 64 || group == 128; }

// Of an element of a strided tensor; of packed ones packed_bytes knows.
constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f16:
    case DType::bf16:
      return 2;
    case DType::u8:
    case DType::int4:
    case DType::int8:
    case DType::fp8:
      return 1;
  }
  return 0;
}

// Static, as what is below: compiled for several instruction sets.
static constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::f16:
      return "f16";
    case DType::bf16:
      return "bf16";
    case DType::i32:
      return "i32";
    case DType::u8:
      return "u8";
    case DType::int4:
      return "int4";
    case DType::int8:
      return "int8";
    case DType::fp8:
      return "fp8";
  }
  return "?";
}

// Storage types of 16-bit floats: bits only, arithmetic happens in float.
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

static inline float to_float(float x) { return x; }

static inline float to_float(bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

static inline float to_float(f16 x) {
  const uint32_t sign = uint32_t{x.bits} >> 15 << 31, exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // zero and subnormals
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

// Round to nearest, ties to even; a NaN stays a (quiet) NaN.
static inline bf16 to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16)};
}

// Round to nearest, ties to even; beyond 65504 infinity.
static inline f16 to_f16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return {static_cast<uint16_t>(sign | 0x7E00u)};
  if (magnitude >= 0x477FF000u) return {static_cast<uint16_t>(sign | 0x7C00u)};
  // Below 2⁻¹⁴ an f16 counts in steps of 2⁻²⁴: adding 1/2 rounds to those, in the last bits of a float.
  if (magnitude < 0x38800000u)
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3F000000u))};
  return {static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1u)) >> 13))};
}

template <typename T>
static inline T from_float(float x);
template <>
inline float from_float<float>(float x) {
  return x;
}
template <>
inline bf16 from_float<bf16>(float x) {
  return to_bf16(x);
}

}  // namespace qwen2
