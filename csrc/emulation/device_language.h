// The device language: what CUDA C++ adds to C++, as far as kernels here use it.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulation/executor.h"

#define QWEN2_EMULATED 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (::qwen2::emulation::current->index)
#define blockIdx (::qwen2::emulation::current->block->index)

// Not macros: a launch's configuration has members of these names.
namespace qwen2::emulation {
template <dim3 Grid::*size, unsigned dim3::*component>
struct Extent {
  operator unsigned() const { return current->block->grid->*size.*component; }
};
template <dim3 Grid::*size>
struct Extents {
  [[no_unique_address]] Extent<size, &dim3::x> x;
  [[no_unique_address]] Extent<size, &dim3::y> y;
  [[no_unique_address]] Extent<size, &dim3::z> z;
};
}  // namespace qwen2::emulation
inline constexpr qwen2::emulation::Extents<&qwen2::emulation::Grid::threads> blockDim{};
inline constexpr qwen2::emulation::Extents<&qwen2::emulation::Grid::blocks> gridDim{};

using qwen2_site = qwen2::emulation::Site;

inline void __syncthreads(qwen2_site site = qwen2_site::here()) { qwen2::emulation::barrier_wait(0, 0, site); }

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, qwen2_site site = qwen2_site::here()) {
  qwen2::emulation::warp_operation("__syncwarp", mask, nullptr, [](void* const (&)[32], uint32_t) {}, site);
}

namespace qwen2::emulation {

template <typename T>
struct ShuffleOperand {
  T value;
  uint32_t source;
  T result;
};

// Every lane of the mask takes the value of lane `source`; of a lane that is not there, poison.
template <typename T>
T shuffle(const char* name, uint32_t mask, T value, uint32_t source, Site site) {
  ShuffleOperand<T> operand{value, source, {}};
  warp_operation(
      name, mask, &operand,
      [](void* const (&operands)[32], uint32_t) {
        for (void* lane : operands) {
          if (lane == nullptr) continue;
          auto& own = *static_cast<ShuffleOperand<T>*>(lane);
          const auto* from = static_cast<const ShuffleOperand<T>*>(operands[own.source]);
          if (from != nullptr) {
            own.result = from->value;
          } else {
            std::memset(&own.result, poison_byte, sizeof own.result);
          }
        }
      },
      site);
  return operand.result;
}

struct VoteOperand {
  bool value;
  uint32_t result;
};

inline uint32_t ballot(const char* name, uint32_t mask, bool value, Site site) {
  VoteOperand operand{value, 0};
  warp_operation(
      name, mask, &operand,
      [](void* const (&operands)[32], uint32_t) {
        uint32_t votes = 0;
        for (int lane = 0; lane < 32; ++lane)
          if (operands[lane] && static_cast<const VoteOperand*>(operands[lane])->value) votes |= 1u << lane;
        for (void* lane : operands)
          if (lane) static_cast<VoteOperand*>(lane)->result = votes;
      },
      site);
  return operand.result;
}

}  // namespace qwen2::emulation

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, qwen2_site site = qwen2_site::here()) {
  const uint32_t lane = qwen2::emulation::current->lane(), w = static_cast<uint32_t>(width);
  return qwen2::emulation::shuffle("__shfl_sync", mask, value, lane / w * w + static_cast<uint32_t>(source) % w, site);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int = 32, qwen2_site site = qwen2_site::here()) {
  return qwen2::emulation::shuffle("__shfl_xor_sync", mask, value,
                                   qwen2::emulation::current->lane() ^ static_cast<uint32_t>(lanes), site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, qwen2_site site = qwen2_site::here()) {
  const uint32_t lane = qwen2::emulation::current->lane(), w = static_cast<uint32_t>(width);
  const bool within = lane % w + delta < w;
  return qwen2::emulation::shuffle("__shfl_down_sync", mask, value, within ? lane + delta : lane, site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, qwen2_site site = qwen2_site::here()) {
  const uint32_t lane = qwen2::emulation::current->lane(), w = static_cast<uint32_t>(width);
  return qwen2::emulation::shuffle("__shfl_up_sync", mask, value, lane % w >= delta ? lane - delta : lane, site);
}
inline unsigned __ballot_sync(unsigned mask, int value, qwen2_site site = qwen2_site::here()) {
  return qwen2::emulation::ballot("__ballot_sync", mask, value != 0, site);
}
inline int __any_sync(unsigned mask, int value, qwen2_site site = qwen2_site::here()) {
  return qwen2::emulation::ballot("__any_sync", mask, value != 0, site) != 0;
}
inline int __all_sync(unsigned mask, int value, qwen2_site site = qwen2_site::here()) {
  return qwen2::emulation::ballot("__all_sync", mask, value != 0, site) == mask;
}

// One thread of the host runs all, so these are atomic as they are.
template <typename T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at = before + value;
  return before;
}
template <typename T>
T atomicMax(T* at, T value) {
  const T before = *at;
  if (value > before) *at = value;
  return before;
}
template <typename T>
T atomicMin(T* at, T value) {
  const T before = *at;
  if (value < before) *at = value;
  return before;
}
template <typename T>
T atomicOr(T* at, T value) {
  const T before = *at;
  *at = before | value;
  return before;
}
template <typename T>
T atomicExch(T* at, T value) {
  const T before = *at;
  *at = value;
  return before;
}
template <typename T>
T atomicCAS(T* at, T expected, T value) {
  const T before = *at;
  if (before == expected) *at = value;
  return before;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __ldg(const T* at) {
  return *at;
}
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

template <typename T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
