#include "emulation/tensor_core.h"

#include <bit>
#include <cstring>

namespace qwen2::emulation {
namespace {

float low_half(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
float high_half(uint32_t pair) { return std::bit_cast<float>(pair & 0xFFFF0000u); }

struct MmaOperand {
  float* d;
  const uint32_t *a, *b;
};

void multiply(void* const (&operands)[32], uint32_t) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& own = *static_cast<const MmaOperand*>(operands[lane]);
    const int g = lane / 4, t = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) {
      float* at = &a[g + 8 * (i % 2)][t + 8 * (i / 2)];
      at[0] = low_half(own.a[i]);
      at[1] = high_half(own.a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[t + 8 * i][g] = low_half(own.b[i]);
      b[t + 8 * i + 1][g] = high_half(own.b[i]);
    }
  }
  float products[16][8] = {};
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < 16; ++k)
      for (int column = 0; column < 8; ++column) products[row][column] += a[row][k] * b[k][column];
  for (int lane = 0; lane < 32; ++lane) {
    float* d = static_cast<const MmaOperand*>(operands[lane])->d;
    for (int i = 0; i < 4; ++i) d[i] += products[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}

struct MatrixOperand {
  uint32_t* registers;
  void* row;
  int count;
  bool transposed;
};

// Whether the address of a row is one that the hardware takes.
void check_row(const void* row, Site site) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    fault("gives a matrix row at %s:%d whose address is not a multiple of 16", site.file, site.line);
  if (!current->block->shared->contains(row, 16))
    fault("gives a matrix row at %s:%d that is not in its block's shared memory", site.file, site.line);
}

// Element (row, 2 · (lane % 4) + i) of matrix m, or of its transpose, as an address.
uint16_t* element(void* const (&operands)[32], const MatrixOperand& own, int m, int lane, int i) {
  int row = lane / 4, column = 2 * (lane % 4) + i;
  if (own.transposed) std::swap(row, column);
  return static_cast<uint16_t*>(static_cast<const MatrixOperand*>(operands[8 * m + row])->row) + column;
}

void load(void* const (&operands)[32], uint32_t) {
  for (int lane = 0; lane < 32; ++lane) {
    const auto& own = *static_cast<const MatrixOperand*>(operands[lane]);
    for (int m = 0; m < own.count; ++m)
      own.registers[m] = *element(operands, own, m, lane, 0) | uint32_t{*element(operands, own, m, lane, 1)} << 16;
  }
}

void store(void* const (&operands)[32], uint32_t) {
  for (int lane = 0; lane < 32; ++lane) {
    const auto& own = *static_cast<const MatrixOperand*>(operands[lane]);
    for (int m = 0; m < own.count; ++m)
      for (int i = 0; i < 2; ++i)
        *element(operands, own, m, lane, i) = static_cast<uint16_t>(own.registers[m] >> 16 * i);
  }
}

}  // namespace

uint32_t shared_address(const void* pointer) {
  const GuardedMemory& shared = *current->block->shared;
  if (!shared.contains(pointer, 0)) fault("takes the shared address of %p, which is not in its block's shared memory", pointer);
  return shared_base + static_cast<uint32_t>(static_cast<const std::byte*>(pointer) - shared.data());
}

void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
  MmaOperand operand{d, a, b};
  warp_operation("mma", 0xFFFFFFFFu, &operand, multiply, site);
}

void load_matrix(uint32_t* registers, int count, const void* row, bool transposed, Site site) {
  if (static_cast<int>(current->lane()) < 8 * count) check_row(row, site);
  MatrixOperand operand{registers, const_cast<void*>(row), count, transposed};
  warp_operation(transposed ? "ldmatrix.trans" : "ldmatrix", 0xFFFFFFFFu, &operand, load, site);
}

void store_matrix(const uint32_t* registers, int count, void* row, bool transposed, Site site) {
  if (static_cast<int>(current->lane()) < 8 * count) check_row(row, site);
  MatrixOperand operand{const_cast<uint32_t*>(registers), row, count, transposed};
  warp_operation(transposed ? "stmatrix.trans" : "stmatrix", 0xFFFFFFFFu, &operand, store, site);
}

}  // namespace qwen2::emulation
