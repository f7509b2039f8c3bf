// How adversarial a run is; read from the environment when the emulation is first used.
#pragma once

#include <cstdint>

namespace qwen2::emulation {

// Which of the threads that can run goes next.
enum class Order { forward, reverse, random };
// When an asynchronous copy lands: as late as it may, at once, or either.
enum class Copies { late, immediate, random };

struct Options {
  Order order;             // QWEN2_EMULATION_ORDER=forward|reverse|random, default forward
  Copies copies;           // QWEN2_EMULATION_COPIES=late|immediate|random, default late
  uint64_t seed;           // QWEN2_EMULATION_SEED, default 1
  int multiprocessors;     // QWEN2_EMULATION_MULTIPROCESSORS: what the device says it has, and how many blocks are
                           // resident at a time; default 3
};

Options& options();

// A number below `bound` from the seeded generator.
uint64_t random_below(uint64_t bound);

}  // namespace qwen2::emulation
