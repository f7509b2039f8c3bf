// Writes weights as quantized.h lays them out: under the pack operations of int4 and int8.
#pragma once

#include "core/int4.h"
#include "cuda/elementwise.h"
#include "cuda/quantized_codec.h"
#include "cuda/reduce.h"

namespace qwen2::cuda {

constexpr int quantized_pack_warps = 8;

// --- int4 ------------------------------------------------------------------------------------------------------------

// Where the rows of a source go, eight at a time: eight i of it become eight `first` + i of a matrix, which has `total`.
// A row group holds `together` of them: of linear two, of swiglu one of gate (part 0) or up (part 1).
struct PackedOctets {
  int64_t first, count, total;
  int together, part;

  // Of the source, those that rows g (high 0) or g + 8 (high 1) of a row group are: negative, or `count` and more, where
  // they are of another.
  __device__ int64_t of(int64_t row_group, int high) const {
    if (together == 1) return high == part ? row_group - first : -1;
    return 2 * row_group + high - first;
  }
  // Whether an eight is to be written: the source's own or, behind the matrix's last one, padding.
  __device__ bool covers(int64_t octet) const {
    return octet >= 0 && (octet < count || (first + count == total && first + octet >= total));
  }
};

// One warp: 64 columns of one row group; one block: eight row groups, so that what it reads of a row of AWQ's lies
// together. Four blocks resident are enough: ptxas by itself goes for six, and spills.
template <int scale_groups>
__global__ void __launch_bounds__(warp_size * quantized_pack_warps, 4)
    pack_int4_kernel(Int4Source source, QuantizedWeight weight, PackedOctets octets, int64_t K, ErrorSlot outside) {
  const int64_t row_group = octets.first / octets.together + int64_t{blockIdx.y} * quantized_pack_warps + warp_index();
  if (row_group >= weight.row_groups) return;
  const int load = static_cast<int>(blockIdx.x % Int4Codec::unit_loads), g = lane_index() / 4, t = lane_index() % 4;
  const int64_t unit = blockIdx.x / Int4Codec::unit_loads, all_units = row_group * weight.units + unit;
  auto* words = reinterpret_cast<uint32_t*>(weight.weights) +
                ((all_units * Int4Codec::unit_loads + load) * warp_size + lane_index()) * 4;
  for (int high = 0; high < 2; ++high) {
    const int64_t octet = octets.of(row_group, high), row = octet * 8 + g;
    if (!octets.covers(octet)) continue;
    const bool padding = octet >= octets.count;
    for (int i = 0; i < 16; ++i) {
      const int column = load * 64 + i / 8 * 32 + t * 8 + i % 8;
      const int64_t k = unit * quantized_unit + column;
      uint32_t q = 0;
      if (k < K && !padding) {
        const int64_t from = source.columns.present() ? source.columns.as<int32_t>()[k] : k;
        if (from >= 0 && from < K) {
          q = source.q(row, k);
        } else {
          report(outside, k, from, K);
        }
      }
      const PackedPlace place = Int4Codec::place(PackedColumn::of(high, column));
      const uint32_t mask = rotate_left(15, place.shift);
      words[place.word] = (words[place.word] & ~mask) | rotate_left(q, place.shift);
    }
    if (load != 0 || t >= scale_groups) continue;
    const int64_t k = unit * quantized_unit + t * (quantized_unit / scale_groups), group = k * source.groups() / K;
    const int64_t at = ((all_units * 8 + g) * scale_groups + t) * 2 + high;
    const bool is_zero = padding || k >= K;
    weight.scales[at] = is_zero ? 0 : source.scale(row, group).bits;
    weight.zeros[at] = is_zero ? 0 : static_cast<uint8_t>(source.zero(row, group));
  }
  // A launch that begins when the last block has ended reads weights without waiting.
  __threadfence();
}

// Source row 0 becomes row 8 · octets.first of the matrix.
inline void pack_int4(Context& context, const Int4Source& source, const Tensor& weight, const PackedOctets& octets) {
  const QuantizedWeight packed = quantized_weight(weight);
  const int64_t first = octets.first / octets.together;
  const int64_t end = octets.first + octets.count == octets.total ? packed.row_groups
                                                                  : ceil_div(octets.first + octets.count, octets.together);
  if (octets.count == 0 || packed.units == 0) return;
  launch(context, QuantizedLayout(weight).scale_groups == 1 ? pack_int4_kernel<1> : pack_int4_kernel<4>,
         {.blocks = {static_cast<unsigned>(packed.units * Int4Codec::unit_loads),
                     static_cast<unsigned>(ceil_div(end - first, quantized_pack_warps))},
          .threads = warp_size * quantized_pack_warps},
         source, packed, octets, weight.shape[1],
         context.errors("columns[%lld] = %lld is outside the %lld columns of the weight"));
}

// --- int8 ------------------------------------------------------------------------------------------------------------

// One warp: one group of columns of one row. Rows beyond the source's are padding.
template <typename Source>
__global__ void __launch_bounds__(warp_size * quantized_pack_warps)
    pack_int8_kernel(Rows<const Source> source, int64_t rows, int64_t K, QuantizedWeight weight, int64_t offset,
                     int group, int scale_groups, ErrorSlot not_finite) {
  const int64_t r = blockIdx.x, n = offset + r;
  const int64_t first = (int64_t{blockIdx.y} * quantized_pack_warps + warp_index()) * group;
  if (first >= int64_t{weight.units} * quantized_unit) return;
  const bool is_zero = r >= rows || first >= K;
  float values[quantized_unit / warp_size] = {}, largest = 0;
  for (int i = 0; i < group / warp_size && !is_zero; ++i) {
    const int64_t k = first + i * warp_size + lane_index();
    values[i] = load_source(source.row(r) + k);
    if (!(fabsf(values[i]) <= 3.402823466e38f)) report(not_finite, r, k);
    largest = fmaxf(largest, fabsf(values[i]));
  }
  const uint16_t scale = cvt_f16(fminf(fmaxf(warp_max(largest) / 127.0f, 0x1p-24f), 65504.0f));
  const int64_t unit = n / 16 * weight.units + first / quantized_unit;
  for (int i = 0; i < group / warp_size; ++i) {
    const int column = static_cast<int>(first % quantized_unit) + i * warp_size + lane_index();
    const float q = fminf(fmaxf(rintf(values[i] / cvt_float(scale)), -127.0f), 127.0f);
    *int8_at(weight.weights, unit, static_cast<int>(n % 16), column) =
        static_cast<uint8_t>((is_zero ? 0 : static_cast<int>(q)) + Int8Codec::zero);
  }
  // A group of 64 columns has two scales of 32.
  const int kept = quantized_unit / scale_groups, i = lane_index();
  if (i < group / kept)
    weight.scales[((unit * 8 + n % 8) * scale_groups + first % quantized_unit / kept + i) * 2 + n % 16 / 8] =
        is_zero ? 0 : scale;
  __threadfence();
}

// Source row r becomes row offset + r. The padding behind the last row is written with it.
inline void pack_int8(Context& context, const Tensor& source, const Tensor& weight, int64_t offset) {
  const QuantizedWeight packed = quantized_weight(weight);
  const int64_t rows = source.shape[0], columns = source.shape[1];
  if (rows == 0 || columns == 0) return;
  const int64_t padding = offset + rows == weight.shape[0] ? packed.row_groups * 16 - weight.shape[0] : 0;
  const int64_t groups = int64_t{packed.units} * quantized_unit / weight.group;
  const Launch how{.blocks = {static_cast<unsigned>(rows + padding),
                              static_cast<unsigned>(ceil_div(groups, quantized_pack_warps))},
                   .threads = warp_size * quantized_pack_warps};
  const auto run = [&](auto kernel, auto from) {
    launch(context, kernel, how, from, rows, columns, packed, offset, weight.group,
           QuantizedLayout(weight).scale_groups,
           context.errors("the weight at row %lld, column %lld is not a finite number"));
  };
  if (source.dtype == DType::bf16) return run(pack_int8_kernel<bf16>, rows_of<const bf16>(source));
  if (source.dtype == DType::f16) return run(pack_int8_kernel<f16>, rows_of<const f16>(source));
  run(pack_int8_kernel<float>, rows_of<const float>(source));
}

}  // namespace qwen2::cuda
