// All inline PTX, with ptx_sm90.h: one instruction a function, its emulation beside it. Names and layouts are the PTX ISA's.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"

#if defined(QWEN2_EMULATED)
#include "emulation/tensor_core.h"
#define QWEN2_SITE , qwen2_site site = qwen2_site::here()
#define QWEN2_ONLY_SITE qwen2_site site = qwen2_site::here()
#else
#define QWEN2_SITE
#define QWEN2_ONLY_SITE
#endif

namespace qwen2::cuda {

// --- Tensor cores ----------------------------------------------------------------------------------------------------

// d[16, 8] += a[16, 16] · b[16, 8]; bf16 operands, fp32 sums. With g = lane / 4 and t = 2 · (lane % 4), a lane holds
//   a: columns t, t + 1 of rows g and g + 8, then columns t + 8, t + 9 of rows g and g + 8
//   b: rows t, t + 1, then rows t + 8, t + 9, of column g
//   d: columns t, t + 1 of row g, then of row g + 8
__device__ inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::mma_m16n8k16(d, a, b, site);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// The address of what is in shared memory, as instructions and descriptors take it.
__device__ inline uint32_t shared_address(const void* pointer) {
#if defined(QWEN2_EMULATED)
  return emulation::shared_address(pointer);
#else
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
#endif
}

// Four 8×8 matrices of 16-bit elements from shared memory. Lane 8i + r gives the address of row r of matrix i; a lane
// receives elements (lane / 4, 2 · (lane % 4) and the next) of matrix i in r[i].
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* row QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::load_matrix(r, 4, row, false, site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

// The same of the matrices' transposes.
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::load_matrix(r, 4, row, true, site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

// --- Asynchronous copies ---------------------------------------------------------------------------------------------

// 16 bytes from global to shared memory, past L1, the whole 128-byte line into L2; of the source, the first `source_bytes` (0 or 16), zeros for the rest.
// A source of no bytes is not read, but its address must be one of global memory.
__device__ inline void cp_async_16(void* to, const void* from, uint32_t source_bytes QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::async_copy(to, from, 16, source_bytes, site);
#else
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)), "l"(from), "r"(source_bytes)
               : "memory");
#endif
}

// Closes the group of the copies that this thread issued since the last one.
__device__ inline void cp_async_commit() {
#if defined(QWEN2_EMULATED)
  emulation::async_commit();
#else
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits until at most `groups` of this thread's groups, the latest, are in flight. Others see the data after a barrier.
template <int groups>
__device__ inline void cp_async_wait(QWEN2_ONLY_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::async_wait(groups, site);
#else
  asm volatile("cp.async.wait_group %0;\n" ::"n"(groups) : "memory");
#endif
}

// --- Loads, conversions, arithmetic ----------------------------------------------------------------------------------

// 16 bytes that are read once and never written meanwhile: past L1, the whole 128-byte line into L2.
__device__ inline uint4 load_streaming(const void* from) {
#if defined(QWEN2_EMULATED)
  return *static_cast<const uint4*>(from);
#else
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
#endif
}

// The same, or zeros and no access where not `valid`: predicated, as a branch around it would keep registers alive.
__device__ inline uint4 load_streaming_or_zeros(const void* from, bool valid) {
#if defined(QWEN2_EMULATED)
  return valid ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
#else
  uint4 value;
  asm volatile(
      "{\n.reg .pred valid;\nsetp.ne.u32 valid, %5, 0;\n"
      "mov.u32 %0, 0;\nmov.u32 %1, 0;\nmov.u32 %2, 0;\nmov.u32 %3, 0;\n"
      "@valid ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];\n}\n"
      : "=&r"(value.x), "=&r"(value.y), "=&r"(value.z), "=&r"(value.w)
      : "l"(from), "r"(static_cast<uint32_t>(valid)));
  return value;
#endif
}

// The same, or `value` as it was and no access where not `valid`.
__device__ inline void load_streaming_if(uint4& value, const void* from, bool valid) {
#if defined(QWEN2_EMULATED)
  if (valid) value = *static_cast<const uint4*>(from);
#else
  asm volatile(
      "{\n.reg .pred valid;\nsetp.ne.u32 valid, %5, 0;\n"
      "@valid ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];\n}\n"
      : "+r"(value.x), "+r"(value.y), "+r"(value.z), "+r"(value.w)
      : "l"(from), "r"(static_cast<uint32_t>(valid)));
#endif
}

// 16 bytes that other blocks read too: kept in L1. Zeros and no access where not `valid`.
__device__ inline uint4 load_or_zeros(const void* from, bool valid) {
#if defined(QWEN2_EMULATED)
  return valid ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
#else
  uint4 value;
  asm volatile(
      "{\n.reg .pred valid;\nsetp.ne.u32 valid, %5, 0;\n"
      "mov.u32 %0, 0;\nmov.u32 %1, 0;\nmov.u32 %2, 0;\nmov.u32 %3, 0;\n"
      "@valid ld.global.v4.u32 {%0, %1, %2, %3}, [%4];\n}\n"
      : "=&r"(value.x), "=&r"(value.y), "=&r"(value.z), "=&r"(value.w)
      : "l"(from), "r"(static_cast<uint32_t>(valid))
      : "memory");
  return value;
#endif
}

// Two floats to bf16, round to nearest even: `low` in the low half.
__device__ inline uint32_t cvt_bf16x2(float low, float high) {
#if defined(QWEN2_EMULATED)
  return to_bf16(low).bits | uint32_t{to_bf16(high).bits} << 16;
#else
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#endif
}

// A float to f16, round to nearest even: its bits.
__device__ inline uint16_t cvt_f16(float x) {
#if defined(QWEN2_EMULATED)
  return to_f16(x).bits;
#else
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;\n" : "=h"(bits) : "f"(x));
  return bits;
#endif
}

// The f16 of some bits to a float.
__device__ inline float cvt_float(uint16_t bits) {
#if defined(QWEN2_EMULATED)
  return to_float(f16{bits});
#else
  float x;
  asm("cvt.f32.f16 %0, %1;\n" : "=f"(x) : "h"(bits));
  return x;
#endif
}

// a · b + c of pairs of bf16, each rounded once.
__device__ inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
#if defined(QWEN2_EMULATED)
  const auto low = [](uint32_t pair) { return __uint_as_float(pair << 16); };
  const auto high = [](uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); };
  return cvt_bf16x2(fmaf(low(a), low(b), low(c)), fmaf(high(a), high(b), high(c)));
#else
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;\n" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
#endif
}

// (a & b) | c, in one instruction.
__device__ inline uint32_t lop3_and_or(uint32_t a, uint32_t b, uint32_t c) {
#if defined(QWEN2_EMULATED)
  return (a & b) | c;
#else
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;\n" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
#endif
}

// (~a & b) | c, in one instruction.
__device__ inline uint32_t lop3_not_and_or(uint32_t a, uint32_t b, uint32_t c) {
#if defined(QWEN2_EMULATED)
  return (~a & b) | c;
#else
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xAE;\n" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
#endif
}

// x rotated to the right by `bits`.
__device__ inline uint32_t shf_r_wrap(uint32_t x, int bits) {
#if defined(QWEN2_EMULATED)
  return std::rotr(x, bits);
#else
  uint32_t d;
  asm("shf.r.wrap.b32 %0, %1, %1, %2;\n" : "=r"(d) : "r"(x), "r"(bits));
  return d;
#endif
}

// 2ˣ, to 2 ulps; subnormal results are zero.
__device__ inline float ex2_approx(float x) {
#if defined(QWEN2_EMULATED)
  return std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
#endif
}

// --- Programmatic dependent launch (compute capability 9.0; nothing on older ones, whose launches are never early) ----

// Waits until the launch before has ended and its memory is visible. Before it, only what no launch writes may be read.
__device__ inline void griddepcontrol_wait(QWEN2_ONLY_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::wait_for_previous_grid(site);
#elif __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

// Lets the launch behind begin once every block has said so.
__device__ inline void griddepcontrol_launch_dependents() {
#if defined(QWEN2_EMULATED)
  emulation::release_dependents();
#elif __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

}  // namespace qwen2::cuda
