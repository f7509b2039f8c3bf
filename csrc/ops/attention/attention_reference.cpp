#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/attention/sequences.h"
#include "reference/kernel.h"
#include "reference/kv_cache.h"

namespace qwen2::reference {
namespace {

template <typename T>
void attend(const AttentionArgs& args, const AttentionSequence& s) {
  const int64_t D = args.head_dim, Hq = args.q.shape[1] / D, Hkv = args.num_kv_heads;
  const KvBlock layout{args.cache_dtype, Hkv, D, args.block_size};
  std::vector<double> p(static_cast<size_t>(s.context));
  for (int64_t i = 0; i < s.queries; ++i)
    for (int64_t h = 0; h < Hq; ++h) {
      const T* q = args.q.row<T>(s.first_query + i) + h * D;
      T* out = args.out.row<T>(s.first_query + i) + h * D;
      const int64_t kv_head = h / (Hq / Hkv);
      const int64_t end = s.position(i) + 1, begin = args.window > 0 ? std::max<int64_t>(0, end - args.window) : 0;
      const auto block_of = [&](int64_t j) { return args.cache.row<uint8_t>(s.blocks[j / args.block_size]); };
      double largest = -INFINITY, total = 0;
      for (int64_t j = begin; j < end; ++j) {
        const int64_t key = layout.key(kv_head, j % args.block_size);
        double score = 0;
        for (int64_t d = 0; d < D; ++d) score += static_cast<double>(to_float(q[d])) * layout.read(block_of(j), key, d);
        p[j] = score * args.scale;
        largest = std::max(largest, p[j]);
      }
      for (int64_t j = begin; j < end; ++j) total += p[j] = std::exp(p[j] - largest);
      for (int64_t d = 0; d < D; ++d) {
        double sum = 0;
        for (int64_t j = begin; j < end; ++j)
          sum += p[j] / total * layout.read(block_of(j), layout.value(kv_head, j % args.block_size), d);
        out[d] = from_float<T>(static_cast<float>(sum));
      }
    }
}

}  // namespace

void attention(const AttentionArgs& args) {
  check_sequences(args);
  for_activation(args.q.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t b = 0; b < args.context_lengths.shape[0]; ++b) {
      const AttentionSequence s = attention_sequence(args, b);
      if (s.context > 0) {
        attend<T>(args, s);
        continue;
      }
      for (int64_t t = s.first_query; t < s.first_query + s.queries; ++t)
        std::fill_n(args.out.row<T>(t), args.out.shape[1], from_float<T>(0));
    }
  });
}

}  // namespace qwen2::reference
