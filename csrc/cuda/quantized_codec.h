// How 16 bytes of a lane become operand A of mma.m16n8k16: the only place where int4 and int8 differ.
//
// int4: 32 numbers, 64 columns. bf16 has 7 bits of mantissa: in 16 … 32 the upper four count ones, so a nibble put there
// makes 16 + q. Which puts q where it belongs with one lop3 and at most one shift for two numbers; Σ(16 + q)·x instead of
// Σ(q − zero)·x is set right once a scale group. The nibbles of a word, from its bit 3 on and around its end:
// registers 0 to 3 of the even column, then of the odd one.
//
// int8: 16 numbers, 32 columns, as q + 128: exactly q, in one fma of pairs.
#pragma once

#include "cuda/bf16.h"
#include "cuda/quantized.h"

namespace qwen2::cuda {

constexpr int unit_steps = quantized_unit / 16;

// Where a codec keeps a number: in `word` of a lane's 16 bytes of `load`, from bit `shift` on.
struct PackedPlace {
  int load, word, shift;
};

// Of row g or g + 8, of a column of a unit: which of the lane's numbers it is.
struct PackedColumn {
  int step, reg, half, t;  // reg: of operand A; half: lower or upper bf16 of it; t: of the lane
  __device__ static PackedColumn of(int high_row, int column) {
    const int within = column % 8;
    return {column / 32 * 2 + within / 4, within % 4 / 2 * 2 + high_row, within % 2, column % 32 / 8};
  }
};

__device__ inline uint32_t rotate_left(uint32_t x, int bits) { return shf_r_wrap(x, (32 - bits) % 32); }

struct Int4Codec {
  static constexpr int unit_loads = 2, bits = 4;
  static constexpr bool has_zeros = true;

  __device__ static void fragment(uint32_t (&a)[4], const uint4 (&loads)[unit_loads], int step) {
    constexpr uint32_t mask = 0x00780078, sixteen = 0x41804180;
    const uint4& load = loads[step / 4];
    const uint32_t words[4] = {load.x, load.y, load.z, load.w}, word = words[step % 4];
    a[0] = lop3_and_or(word, mask, sixteen);
    a[1] = lop3_and_or(word >> 4, mask, sixteen);
    a[2] = lop3_and_or(word >> 8, mask, sixteen);
    a[3] = lop3_and_or(shf_r_wrap(word, 12), mask, sixteen);
  }
  __device__ static PackedPlace place(const PackedColumn& at) {
    return {at.step / 4, at.step % 4, (3 + 4 * at.reg + 16 * at.half) % 32};
  }
};

struct Int8Codec {
  static constexpr int unit_loads = 4, bits = 8;
  static constexpr bool has_zeros = false;
  static constexpr int zero = 128;

  __device__ static void fragment(uint32_t (&a)[4], const uint4 (&loads)[unit_loads], int step) {
    const uint4& load = loads[step / 2];
    const uint32_t words[4] = {load.x, load.y, load.z, load.w};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t word = words[step % 2 * 2 + i];
      a[2 * i] = bf16_pair_of_bytes(word);
      a[2 * i + 1] = bf16_pair_of_bytes(word >> 8);
    }
  }
  __device__ static PackedPlace place(const PackedColumn& at) {
    return {at.step / 2, at.step % 2 * 2 + at.reg / 2, 8 * (at.reg % 2) + 16 * at.half};
  }
};

// The byte of row `row` of a row group, at a column of its unit `unit` of the whole weight.
__device__ inline uint8_t* int8_at(char* weights, int64_t unit, int row, int column) {
  const PackedColumn at = PackedColumn::of(row / 8, column);
  const PackedPlace place = Int8Codec::place(at);
  const int64_t load = (unit * Int8Codec::unit_loads + place.load) * 32 + row % 8 * 4 + at.t;
  return reinterpret_cast<uint8_t*>(weights) + load * 16 + place.word * 4 + place.shift / 8;
}

}  // namespace qwen2::cuda
