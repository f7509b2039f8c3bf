#include "cpu/context.h"

#include <cstdlib>
#include <new>

namespace qwen2::cpu {

Context::Context(ThreadPool& pool) : pool_(pool), buffers_(new Buffer[static_cast<size_t>(pool.threads()) + 1]) {}

Context::~Context() {
  for (int i = 0; i <= threads(); ++i) std::free(buffers_[i].data);
  delete[] buffers_;
}

void* Context::scratch(int worker, size_t bytes) {
  Buffer& buffer = buffers_[worker + 1];
  if (buffer.bytes < bytes) {
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    std::free(buffer.data);
    buffer = {};
    buffer.data = std::aligned_alloc(64, rounded);
    if (buffer.data == nullptr) throw std::bad_alloc();
    buffer.bytes = rounded;
  }
  return buffer.data;
}

}  // namespace qwen2::cpu
