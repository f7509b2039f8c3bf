// x · weightᵀ on tensor cores: what linear and swiglu share.
//
// A weight is row-major bf16 [N, K] with rows padded to groups of 16. linear's rows are in their own order. swiglu's
// groups are 8 rows of gate, then the 8 rows of up that they meet. Rows g and g + 8 of a group always end in one
// thread, so gate and up never reach memory.
//
// Two families of kernels: skinny (matmul_skinny.h) for T ≤ 32 and tiled (matmul_tiled.h) beyond, chosen by
// matmul_plan.h. Either may split K over blocks: partial sums go to the workspace, and the last block to arrive adds
// them in the order of splits.
#pragma once

#include "cuda/elementwise.h"
#include "cuda/matmul_plan.h"

namespace qwen2::cuda {

// A kernel's operands.
struct Product {
  const bf16* x;  // [tokens, K], rows x_stride elements apart, at multiples of 16 bytes
  int64_t x_stride;
  const bf16* weight;  // [rows, K]
  int tokens, rows, K;  // rows is a multiple of 16, K of 8
};

constexpr int matmul_group = 16;

// The slabs of K that are summed by themselves: one of some parts.
struct MatmulPart {
  int first_slab, end_slab;
  __device__ static MatmulPart of(int K, unsigned part, unsigned parts) {
    const int64_t slabs = (K + matmul_slab - 1) / matmul_slab;
    return {static_cast<int>(slabs * part / parts), static_cast<int>(slabs * (part + 1) / parts)};
  }
  __device__ static MatmulPart of_block(int K) { return of(K, blockIdx.y, gridDim.y); }
};

// Where K is split: partial sums [gridDim.y][gridDim.x][of a block] in the kernel's own order, and counters that are
// zero [gridDim.x].
template <typename Value>
struct SplitSums {
  Value* partial;
  unsigned* counters;
};

template <typename Value>
SplitSums<Value> split_sums(Context& context, int splits, int64_t blocks, int64_t values) {
  if (splits == 1) return {};
  return {static_cast<Value*>(context.workspace(static_cast<size_t>(splits * blocks * values) * sizeof(Value))),
          context.counters()};
}

// Whether this block is the last of `parts` blocks that share a counter to have written its partial sums, which are then
// all visible. For all threads of the block; `arrived` is in shared memory.
__device__ inline bool last_to_arrive(unsigned& arrived, unsigned& counter, unsigned parts) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    arrived = atomicAdd(&counter, 1u);
    if (arrived == parts - 1) counter = 0;
  }
  __syncthreads();
  __threadfence();
  return arrived == parts - 1;
}

// What becomes of the sums of rows g and g + 8 of a group, for one token: `outputs` values, for columns
// (group · outputs + i) · 8 + g of out.
template <typename Output>
struct LinearFinish {
  using Out = Output;
  static constexpr int outputs = 2;
  Rows<Out> out;      // [T, columns]
  const float* bias;  // [columns] or null
  int columns;

  __device__ int column(int group, int g, int i) const { return (group * outputs + i) * 8 + g; }
  __device__ void apply(float (&sums)[2], int group, int g) const {
    if (bias == nullptr) return;
    for (int i = 0; i < outputs; ++i)
      if (column(group, g, i) < columns) sums[i] += bias[column(group, g, i)];
  }
};

struct SwigluFinish {
  using Out = bf16;
  static constexpr int outputs = 1;
  Rows<Out> out;  // [T, columns]
  int columns;

  __device__ int column(int group, int g, int) const { return group * 8 + g; }
  __device__ void apply(float (&sums)[2], int, int) const { sums[0] = sums[0] * sums[1] / (1.0f + expf(-sums[0])); }
};

// Stores what becomes of the sums of rows g and g + 8 of a group, where there is such a token.
template <typename Finish>
__device__ inline void store_pair(const Finish& finish, int group, int g, int token, int tokens, float2 sum) {
  if (token >= tokens) return;
  float sums[2] = {sum.x, sum.y};
  finish.apply(sums, group, g);
  for (int i = 0; i < Finish::outputs; ++i) {
    const int column = finish.column(group, g, i);
    if (column < finish.columns) store_float(finish.out.row(token) + column, sums[i]);
  }
}

// Of K and of the elements between rows of x: 32 rows then lie within 4 GB (matmul_skinny.h).
constexpr int64_t matmul_row_limit = int64_t{1} << 26;

inline void require_vectors(const char* op, const Tensor& x) {
  require_bf16(op, x);
  if (x.shape[1] % vector_bf16 != 0)
    fail("unsupported", "%s: CUDA devices take K in multiples of %d, not %lld", op, vector_bf16,
         static_cast<long long>(x.shape[1]));
  if (!vectorizable(x, x.shape[1]))
    fail("unsupported",
         "%s: CUDA devices take rows of x that begin at multiples of 16 bytes; row 0 begins %lld bytes beyond one, and "
         "rows are %lld elements apart",
         op, static_cast<long long>(reinterpret_cast<uintptr_t>(x.data) % 16), static_cast<long long>(x.strides[0]));
  const int64_t apart = x.shape[0] > 1 ? x.strides[0] : x.shape[1];
  if (apart >= matmul_row_limit)
    fail("unsupported", "%s: CUDA devices take rows of x less than %lld elements apart, not %lld", op,
         static_cast<long long>(matmul_row_limit), static_cast<long long>(apart));
}

inline Product product_of(const Tensor& x, const Tensor& weight) {
  const int64_t groups = ceil_div(weight.shape[0], matmul_group);
  return {x.as<const bf16>(),
          x.strides[0],
          weight.as<const bf16>(),
          static_cast<int>(x.shape[0]),
          static_cast<int>(groups * matmul_group),
          static_cast<int>(x.shape[1])};
}

}  // namespace qwen2::cuda
