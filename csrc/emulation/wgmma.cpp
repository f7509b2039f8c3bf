#include "emulation/wgmma.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "emulation/bulk.h"
#include "emulation/options.h"
#include "emulation/tensor_copies.h"
#include "emulation/tensor_core.h"

namespace qwen2::emulation {
namespace {

constexpr uint32_t group_threads = 128, group_warps = 4;
constexpr int rows = 64, depth = 16;
constexpr uint32_t chunk_bytes = 16;  // what the swizzle moves as one

// What a warpgroup issued.
struct Product {
  Site site;
  int columns;
  uint64_t a, b;
  bool accumulate;
  std::vector<std::byte*> chunks;   // of its operands in shared memory
  std::vector<std::byte> operands;  // what was in them
  std::vector<float> sums;          // a · b, [rows, columns]
  bool complete = false;

  bool is_same(const Product& other) const {
    return same_place(site, other.site) && columns == other.columns && a == other.a && b == other.b &&
           accumulate == other.accumulate;
  }
};

// Registers of a thread that products in flight add to.
struct Accumulator {
  int columns = 0;
  uint32_t in_flight = 0;
  std::vector<float> values;
};

// Registers as they were at a fence.
struct Fenced {
  std::byte* begin;
  std::vector<std::byte> values;
};

struct Lane {
  std::vector<Fenced> fenced;
  std::map<float*, Accumulator> accumulators;
  std::deque<float*> issued;  // accumulators of the products in flight
};

struct Warp {
  uint64_t issued = 0, landed = 0;  // products
  std::deque<uint64_t> groups;      // products issued before the end of each group that is in flight
};

}  // namespace

struct Warpgroup {
  std::deque<Product> products;
  uint64_t first = 0;  // that is still there, of all
  Warp warps[group_warps];
  Lane lanes[group_threads];

  Product& product(uint64_t index) { return products[index - first]; }
};

namespace {

Warpgroup& warpgroup(Site site) {
  const uint32_t index = current->rank / group_threads;
  if ((index + 1) * group_threads > current->block->grid->thread_count())
    fault("is at %s:%d in a warpgroup of less than %u threads", site.file, site.line, group_threads);
  std::shared_ptr<Warpgroup>& group = current->block->warpgroups[index];
  if (group == nullptr) group = std::make_shared<Warpgroup>();
  return *group;
}

Warp& warp_of(Warpgroup& group) { return group.warps[current->rank / 32 % group_warps]; }
Lane& lane_of(Warpgroup& group, uint32_t lane) {
  return group.lanes[current->rank % group_threads / 32 * 32 + lane];
}

// --- Operands ----------------------------------------------------------------------------------------------------------

// Element [row, k] as floats, of an operand of `count` rows.
std::vector<float> read_operand(Product& product, uint64_t descriptor, int count) {
  const uint32_t begin = (descriptor & 0x3FFF) << 4, stride = (descriptor >> 32 & 0x3FFF) << 4;
  const Site site = product.site;
  if (descriptor >> 62 != 1 || (descriptor >> 46 & 0xFFFF) != 0 || (begin >> 7 & 7) != 0)
    fault("gives wgmma at %s:%d the descriptor %016llx; the emulation knows swizzles of 128 bytes that begin at a multiple "
          "of 1024", site.file, site.line, static_cast<unsigned long long>(descriptor));
  Block& block = *current->block;
  std::vector<float> values;
  for (int row = 0; row < count; ++row)
    for (uint32_t chunk = 0; chunk < depth * 2 / chunk_bytes; ++chunk) {
      const uint32_t r = static_cast<uint32_t>(row);
      const uint32_t offset = swizzled(begin + r / 8 * stride + r % 8 * 128 + chunk * chunk_bytes) - shared_base;
      std::byte* at = block.shared->data() + offset;
      if (!block.shared->contains(at, chunk_bytes))
        fault("gives wgmma at %s:%d an operand of which not all is in its block's shared memory", site.file, site.line);
      if (std::memcmp(at, proxy_view(block) + offset, chunk_bytes) != 0)
        fault("gives wgmma at %s:%d an operand that threads wrote, without a fence_proxy_async since", site.file, site.line);
      product.chunks.push_back(at);
      product.operands.insert(product.operands.end(), at, at + chunk_bytes);
      uint16_t elements[chunk_bytes / 2];
      std::memcpy(elements, at, chunk_bytes);
      for (const uint16_t bits : elements) values.push_back(std::bit_cast<float>(uint32_t{bits} << 16));
    }
  return values;
}

void multiply(Product& product) {
  const std::vector<float> a = read_operand(product, product.a, rows);
  const std::vector<float> b = read_operand(product, product.b, product.columns);
  const size_t columns = static_cast<size_t>(product.columns);
  std::vector<float> b_by_k(b.size());
  for (size_t column = 0; column < columns; ++column)
    for (size_t k = 0; k < depth; ++k) b_by_k[k * columns + column] = b[column * depth + k];
  product.sums.assign(rows * columns, 0.0f);
  for (size_t row = 0; row < rows; ++row)
    for (size_t k = 0; k < depth; ++k)
      for (size_t column = 0; column < columns; ++column)
        product.sums[row * columns + column] += a[row * depth + k] * b_by_k[k * columns + column];
}

void complete(Product& product) {
  if (product.complete) return;
  for (size_t i = 0; i < product.chunks.size(); ++i)
    if (std::memcmp(product.chunks[i], product.operands.data() + i * chunk_bytes, chunk_bytes) != 0)
      fault("waited for wgmma of %s:%d, whose operands in shared memory changed while it was in flight: they were not "
            "there yet, or were overwritten too early", product.site.file, product.site.line);
  product.complete = true;
}

// --- Registers ---------------------------------------------------------------------------------------------------------

void poison(float* registers, int count) { std::memset(registers, poison_byte, static_cast<size_t>(count) * sizeof(float)); }

void require_poison(const float* registers, int count, Site site) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(registers);
  if (!std::all_of(bytes, bytes + static_cast<size_t>(count) * sizeof(float), [](unsigned char b) { return b == poison_byte; }))
    fault("is at %s:%d, and an accumulator was written while products that add to it were in flight", site.file, site.line);
}

// Takes the accumulator from its registers for a product.
void take(Lane& lane, float* d, int columns, Site site) {
  const int count = columns / 2;
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  Accumulator& accumulator = lane.accumulators[d];
  if (accumulator.in_flight == 0) {
    const std::byte* begin = reinterpret_cast<const std::byte*>(d);
    const auto fenced = std::find_if(lane.fenced.rbegin(), lane.fenced.rend(), [&](const Fenced& f) {
      return begin >= f.begin && begin + bytes <= f.begin + f.values.size();
    });
    if (fenced == lane.fenced.rend())
      fault("issues wgmma at %s:%d without a wgmma_fence of its accumulator before", site.file, site.line);
    if (std::memcmp(fenced->values.data() + (begin - fenced->begin), d, bytes) != 0)
      fault("issues wgmma at %s:%d on an accumulator that was written since its wgmma_fence", site.file, site.line);
    accumulator.values.assign(d, d + count);
    accumulator.columns = columns;
    poison(d, count);
  } else if (accumulator.columns != columns) {
    fault("issues wgmma at %s:%d on an accumulator of one in flight of another shape", site.file, site.line);
  } else {
    require_poison(d, count, site);
  }
  ++accumulator.in_flight;
  lane.issued.push_back(d);
}

// Adds what lane `index` of the warp holds of the product.
void add(Lane& lane, uint32_t index, const Product& product) {
  Accumulator& accumulator = lane.accumulators[lane.issued.front()];
  lane.issued.pop_front();
  --accumulator.in_flight;
  const size_t columns = static_cast<size_t>(product.columns);
  const size_t warp = current->rank / 32 % group_warps;
  for (size_t i = 0; i < accumulator.values.size(); ++i) {
    const size_t row = 16 * warp + index / 4 + 8 * (i / 2 % 2), column = 8 * (i / 4) + 2 * (index % 4) + i % 2;
    accumulator.values[i] = (product.accumulate ? accumulator.values[i] : 0.0f) + product.sums[row * columns + column];
  }
}

// --- What lanes of a warp do together --------------------------------------------------------------------------------------

constexpr uint32_t all_lanes = 0xFFFFFFFFu;

struct Registers {
  void* begin;
  size_t bytes;
  uint64_t target;  // products to land
  Site site;
};

void fence(void* const (&operands)[32], uint32_t) {
  Warpgroup& group = warpgroup(static_cast<const Registers*>(operands[0])->site);
  for (uint32_t i = 0; i < 32; ++i) {
    const auto& own = *static_cast<const Registers*>(operands[i]);
    auto* begin = static_cast<std::byte*>(own.begin);
    lane_of(group, i).fenced.push_back({begin, {begin, begin + own.bytes}});
  }
}

struct Issue {
  float* d;
  Product product;
};

void issue(void* const (&operands)[32], uint32_t) {
  auto& first = *static_cast<Issue*>(operands[0]);
  const Site site = first.product.site;
  Warpgroup& group = warpgroup(site);
  for (const void* operand : operands)
    if (!static_cast<const Issue*>(operand)->product.is_same(first.product))
      fault("gives wgmma at %s:%d other descriptors or flags than the other lanes", site.file, site.line);
  const uint64_t index = warp_of(group).issued++;
  if (index == group.first + group.products.size()) {
    multiply(first.product);
    group.products.push_back(std::move(first.product));
  } else if (!group.product(index).is_same(first.product)) {
    const Site other = group.product(index).site;
    fault("issues wgmma at %s:%d, where another warp of its warpgroup issued that of %s:%d or of other operands", site.file,
          site.line, other.file, other.line);
  }
  for (uint32_t i = 0; i < 32; ++i) {
    take(lane_of(group, i), static_cast<const Issue*>(operands[i])->d, group.product(index).columns, site);
    current->block->threads[current->rank / 32 * 32 + i]->products_in_flight = lane_of(group, i).issued.size();
  }
}

void commit(void* const (&)[32], uint32_t) {
  Warp& warp = warp_of(*current->block->warpgroups.at(current->rank / group_threads));
  warp.groups.push_back(warp.issued);
}

void land(void* const (&operands)[32], uint32_t) {
  const auto& first = *static_cast<const Registers*>(operands[0]);
  Warpgroup& group = warpgroup(first.site);
  Warp& warp = warp_of(group);
  while (!warp.groups.empty() && warp.groups.front() <= first.target) warp.groups.pop_front();
  for (uint32_t i = 0; i < 32 && warp.landed < first.target; ++i) lane_of(group, i).fenced.clear();
  for (; warp.landed < first.target; ++warp.landed) {
    Product& product = group.product(warp.landed);
    complete(product);
    for (uint32_t i = 0; i < 32; ++i) add(lane_of(group, i), i, product);
  }
  for (uint32_t i = 0; i < 32; ++i) {
    const auto& own = *static_cast<const Registers*>(operands[i]);
    Lane& lane = lane_of(group, i);
    current->block->threads[current->rank / 32 * 32 + i]->products_in_flight = lane.issued.size();
    std::erase_if(lane.accumulators, [&](auto& entry) {
      auto& [d, accumulator] = entry;
      const auto offset = reinterpret_cast<uintptr_t>(d) - reinterpret_cast<uintptr_t>(own.begin);
      if (accumulator.in_flight > 0 || offset >= own.bytes) return false;
      require_poison(d, accumulator.columns / 2, own.site);
      std::copy(accumulator.values.begin(), accumulator.values.end(), d);
      return true;
    });
  }
  const auto least = std::min_element(std::begin(group.warps), std::end(group.warps),
                                      [](const Warp& x, const Warp& y) { return x.landed < y.landed; });
  for (; group.first < least->landed; ++group.first) group.products.pop_front();
}

}  // namespace

void wgmma_fence(void* registers, size_t bytes, Site site) {
  Registers operand{registers, bytes, 0, site};
  warp_operation("wgmma_fence", all_lanes, &operand, fence, site);
}

void wgmma(float* d, int columns, uint64_t a, uint64_t b, bool accumulate, Site site) {
  Issue operand{d, {site, columns, a, b, accumulate, {}, {}, {}}};
  warp_operation("wgmma", all_lanes, &operand, issue, site);
}

void wgmma_commit_group(Site site) {
  warpgroup(site);
  warp_operation("wgmma_commit_group", all_lanes, nullptr, commit, site);
}

void wgmma_wait_group(int groups, void* registers, size_t bytes, Site site) {
  Warpgroup& group = warpgroup(site);
  Warp& warp = warp_of(group);
  Registers operand{registers, bytes, warp.landed, site};
  const size_t most = static_cast<size_t>(groups);
  if (warp.groups.size() > most) {
    operand.target = warp.groups[warp.groups.size() - most - 1];
    if (options().copies != Copies::immediate) wait_late("products of its warpgroup", site);
    const uint64_t target = operand.target;
    wait_for("the other warps of its warpgroup to issue their products",
             [&group, target] {
               return std::all_of(std::begin(group.warps), std::end(group.warps),
                                  [target](const Warp& w) { return w.issued >= target; });
             },
             site);
  }
  warp_operation("wgmma_wait_group", all_lanes, &operand, land, site);
}

}  // namespace qwen2::emulation
