#include "emulation/options.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace qwen2::emulation {
namespace {

// One of the names, by its index; an unknown one is a mistake of whoever runs the tests.
int choice(const char* variable, const char* const (&names)[3]) {
  const char* value = std::getenv(variable);
  if (value == nullptr) return 0;
  for (int i = 0; i < 3; ++i)
    if (std::strcmp(value, names[i]) == 0) return i;
  throw std::runtime_error(std::string(variable) + " is " + value);
}

uint64_t number(const char* variable, uint64_t otherwise) {
  const char* value = std::getenv(variable);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

}  // namespace

Options& options() {
  static Options options = {
      .order = static_cast<Order>(choice("QWEN2_EMULATION_ORDER", {"forward", "reverse", "random"})),
      .copies = static_cast<Copies>(choice("QWEN2_EMULATION_COPIES", {"late", "immediate", "random"})),
      .seed = number("QWEN2_EMULATION_SEED", 1),
      .multiprocessors = static_cast<int>(number("QWEN2_EMULATION_MULTIPROCESSORS", 3)),
  };
  return options;
}

// splitmix64 (Steele, Lea, Flood 2014).
uint64_t random_below(uint64_t bound) {
  static uint64_t state = options().seed;
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return (z ^ z >> 31) % bound;
}

}  // namespace qwen2::emulation
