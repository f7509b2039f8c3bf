// Philox4x32-10, a counter-based random number generator: "Parallel Random Numbers: As Easy as 1, 2, 3" (Salmon, Moraes,
// Dror, Shaw; SC 2011). Every device draws with these functions, so that every device draws alike.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace qwen2 {

struct PhiloxCounter {
  uint32_t words[4];
};

QWEN2_HOST_DEVICE static constexpr PhiloxCounter philox_4x32_10(PhiloxCounter counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter.words[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.words[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.words[1] ^ key0, static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.words[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;  // the golden ratio
    key1 += 0xBB67AE85u;  // √3 − 1
  }
  return counter;
}

// The first word that a row of `sample` draws.
QWEN2_HOST_DEVICE static constexpr uint32_t sample_word(uint32_t seed_low, uint32_t seed_high, uint32_t token_index,
                                                        uint32_t choice_index) {
  return philox_4x32_10({{token_index, choice_index, 0, 0}}, seed_low, seed_high).words[0];
}

// The u of `sample`, uniform in [0, 1): that word as a fraction of 2³².
static constexpr double sample_uniform(uint32_t seed_low, uint32_t seed_high, uint32_t token_index,
                                       uint32_t choice_index) {
  return sample_word(seed_low, seed_high, token_index, choice_index) * 0x1p-32;
}

// The known answers that the authors publish with their implementation (Random123).
static constexpr bool philox_gives(PhiloxCounter counter, uint32_t key0, uint32_t key1, PhiloxCounter expected) {
  const PhiloxCounter actual = philox_4x32_10(counter, key0, key1);
  return actual.words[0] == expected.words[0] && actual.words[1] == expected.words[1] &&
         actual.words[2] == expected.words[2] && actual.words[3] == expected.words[3];
}
static_assert(philox_gives({{0, 0, 0, 0}}, 0, 0, {{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8}}));
static_assert(philox_gives({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u, {{0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD}}));
static_assert(philox_gives({{0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}}, 0xA4093822, 0x299F31D0,
                           {{0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1}}));

}  // namespace qwen2
