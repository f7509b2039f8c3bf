// Runs every case twice, right and broken, under the schedule that the environment asks for: a line of JSON each. On a GPU,
// only the right ones: they prove that instructions do there what the kernels and the emulation take them to do.
#include "emulation/selftest/selftest.h"

namespace qwen2::cuda::selftest {
namespace {

// "right", "wrong", "absent", or "fault: …".
std::string outcome(Case run, bool broken) {
  try {
    Bench bench;
    return run(bench, broken) ? "right" : "wrong";
  } catch (const Absent&) {
    return "absent";
  } catch (const Error& e) {
    return std::string("fault: ") + e.what();
  }
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

}  // namespace
}  // namespace qwen2::cuda::selftest

int main() {
  using namespace qwen2::cuda::selftest;
#if defined(QWEN2_EMULATED)
  for (const auto& [name, run] : cases())
    std::printf("{\"name\": %s, \"right\": %s, \"broken\": %s}\n", quoted(name).c_str(),
                quoted(outcome(run, false)).c_str(), quoted(outcome(run, true)).c_str());
  return 0;
#else
  int wrong = 0;
  for (const auto& [name, run] : cases()) {
    const std::string found = outcome(run, false);
    std::printf("{\"name\": %s, \"right\": %s}\n", quoted(name).c_str(), quoted(found).c_str());
    wrong += found != "right" && found != "absent";
  }
  return wrong == 0 ? 0 : 1;
#endif
}
