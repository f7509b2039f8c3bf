// Inline PTX of Hopper (compute capability 9.0): one instruction a function, its emulation beside it, as in ptx.h. On older
// devices all of it traps; wgmma does on newer ones, too.
#pragma once

#include <cudaTypedefs.h>

#include "cuda/ptx.h"

#if defined(QWEN2_EMULATED)
#include "emulation/bulk.h"
#include "emulation/tensor_copies.h"
#include "emulation/wgmma.h"
#endif

namespace qwen2::cuda {

// --- Memory barriers -------------------------------------------------------------------------------------------------

// A barrier in shared memory, whose phases complete when `count` arrivals, and the bytes that copies bring, are there.
__device__ inline void mbarrier_init(uint64_t* barrier, uint32_t count QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::mbarrier_init(barrier, count, site);
#elif __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(count) : "memory");
#else
  __trap();
#endif
}

__device__ inline void mbarrier_arrive(uint64_t* barrier QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::mbarrier_arrive(barrier, site);
#elif __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");
#else
  __trap();
#endif
}

// An arrival after which the phase waits for so many bytes more.
__device__ inline void mbarrier_arrive_expect_tx(uint64_t* barrier, uint32_t bytes QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::mbarrier_arrive_expect_bytes(barrier, bytes, site);
#elif __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#else
  __trap();
#endif
}

// Waits until the phase of this parity has completed: 0 for the first, 1 for the second, 0 for the third …
__device__ inline void mbarrier_wait(uint64_t* barrier, uint32_t parity QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::mbarrier_wait(barrier, parity, site);
#elif __CUDA_ARCH__ >= 900
  uint32_t done = 0;
  while (done == 0)
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
#else
  __trap();
#endif
}

// --- Copies of blocks of memory ----------------------------------------------------------------------------------------

// Global to shared memory; completes on the barrier. Addresses and size are multiples of 16.
__device__ inline void cp_async_bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* barrier QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::bulk_load(to, from, bytes, barrier, site);
#elif __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
#else
  __trap();
#endif
}

// A box of a matrix from global to shared memory, its first element at (row, column) of the matrix, which may be outside:
// what of the box is outside is zeros, and counts on the barrier like the rest. `map` is the kernel's __grid_constant__
// parameter. Swizzled: bits 4-6 of every address in shared memory are XORed with bits 7-9. `to` is a multiple of 1,024.
__device__ inline void cp_async_bulk_tensor_2d(void* to, const CUtensorMap& map, int row, int column,
                                               uint64_t* barrier QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::tensor_load(to, map, row, column, barrier, site);
#elif __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];\n" ::
          "r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier))
      : "memory");
#else
  __trap();
#endif
}

// Shared to global memory, of what was written before the last fence_proxy_async.
__device__ inline void cp_async_bulk_store(void* to, const void* from, uint32_t bytes QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::bulk_store(to, from, bytes, site);
#elif __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n" ::"l"(to), "r"(shared_address(from)),
               "r"(bytes)
               : "memory");
#else
  __trap();
#endif
}

__device__ inline void cp_async_bulk_commit() {
#if defined(QWEN2_EMULATED)
  emulation::bulk_commit();
#elif __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
#else
  __trap();
#endif
}

// Waits until at most `groups` of this thread's groups of stores, the latest, are in flight.
template <int groups>
__device__ inline void cp_async_bulk_wait(QWEN2_ONLY_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::bulk_wait(groups, site);
#elif __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.wait_group %0;\n" ::"n"(groups) : "memory");
#else
  __trap();
#endif
}

// Makes this thread's writes to shared memory visible to the asynchronous proxy: to copies, to wgmma; and the barriers it
// initialized.
__device__ inline void fence_proxy_async() {
#if defined(QWEN2_EMULATED)
  emulation::fence_proxy_async();
#elif __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#else
  __trap();
#endif
}

// --- Matrices ----------------------------------------------------------------------------------------------------------

// The transpose of ldmatrix's way: four 8×8 matrices to shared memory; lane 8i + r gives the address of row r of matrix i.
__device__ inline void stmatrix_x4(void* row, const uint32_t (&r)[4] QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::store_matrix(r, 4, row, false, site);
#elif __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(shared_address(row)),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
#else
  __trap();
#endif
}

// --- Products of a warpgroup: 128 threads, four warps from a multiple of four (compute capability 9.0 only) ---------------

// An operand of wgmma in shared memory: rows of 64 bf16, 128 bytes, k contiguous, swizzled as cp_async_bulk_tensor_2d does
// it; `tile` is a multiple of 1,024. The operand of the next k16 is 2 further: 32 bytes.
//   bits 0-13   address / 16
//   bits 16-29  leading dimension byte offset / 16: not used with this layout, 1
//   bits 32-45  stride dimension byte offset / 16, from 8 rows to the next 8: 1,024 bytes
//   bits 62-63  1, swizzle of 128 bytes
__device__ inline uint64_t wgmma_descriptor(const void* tile) {
  return uint64_t{(shared_address(tile) & 0x3FFFF) >> 4} | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

// No instruction: keeps the compiler from moving an access of accumulators across.
__device__ inline void pin_registers(float& value) {
#if defined(QWEN2_EMULATED)
  static_cast<void>(value);
#else
  asm volatile("" : "+f"(value)::"memory");
#endif
}
template <typename T, int count>
__device__ inline void pin_registers(T (&values)[count]) {
#pragma unroll
  for (int i = 0; i < count; ++i) pin_registers(values[i]);
}

// Orders what the threads did with the accumulators before, and the wgmmas behind: before the first of a batch.
template <typename Accumulators>
__device__ inline void wgmma_fence(Accumulators& accumulators QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::wgmma_fence(&accumulators, sizeof accumulators, site);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  pin_registers(accumulators);
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
#else
  __trap();
#endif
}

// d[64, 64] = a[64, 16] · b[64, 16]ᵀ, + d where `accumulate`: bf16 operands by their descriptors, fp32 sums. With
// r = 16 · (warp % 4) + lane / 4, a lane holds of every eight columns j columns 8j + 2 · (lane % 4) and the next, of row r,
// then of row r + 8. Runs by itself: a, b and d are left alone until it was waited for.
__device__ inline void wgmma_m64n64k16(float (&d)[32], uint64_t a, uint64_t b, bool accumulate QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::wgmma(d, 64, a, b, accumulate, site);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{\n.reg .pred accumulate;\nsetp.ne.u32 accumulate, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, accumulate, 1, 1, 0, 0;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
        "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
        "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
        "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31])
      : "l"(a), "l"(b), "r"(static_cast<uint32_t>(accumulate)));
#else
  __trap();
#endif
}

// The same of d[64, 128] and b[128, 16].
__device__ inline void wgmma_m64n128k16(float (&d)[64], uint64_t a, uint64_t b, bool accumulate QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::wgmma(d, 128, a, b, accumulate, site);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{\n.reg .pred accumulate;\nsetp.ne.u32 accumulate, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, accumulate, 1, 1, 0, 0;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
        "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
        "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
        "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
        "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
        "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
        "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
        "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "l"(a), "l"(b), "r"(static_cast<uint32_t>(accumulate)));
#else
  __trap();
#endif
}

// Closes the group of the wgmmas that were issued since the last one.
__device__ inline void wgmma_commit_group(QWEN2_ONLY_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::wgmma_commit_group(site);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
#else
  __trap();
#endif
}

// Waits until at most `groups` of the warpgroup's groups, the latest, are in flight. The accumulators that are named here
// then hold their sums, unless those groups add to them, too.
template <int groups, typename Accumulators>
__device__ inline void wgmma_wait_group(Accumulators& accumulators QWEN2_SITE) {
#if defined(QWEN2_EMULATED)
  emulation::wgmma_wait_group(groups, &accumulators, sizeof accumulators, site);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(groups) : "memory");
  pin_registers(accumulators);
#else
  __trap();
#endif
}

}  // namespace qwen2::cuda
