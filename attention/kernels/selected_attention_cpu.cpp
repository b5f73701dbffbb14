// Forward of attention over listed key blocks on the CPU. A task is one tile of queries and one key
// head.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "kernels/selected_attention_kernels.h"

namespace weft::attention {
namespace {

template <class T>
void forward(const SelectedAttentionParams& p) {
  using A = accumulator_t<T>;
  const SelectionShape& shape = p.selection.shape;
  const int64_t tiles = shape.tiles(), group = p.heads / p.kv_heads;
  const int64_t heads_per_list = p.heads / shape.groups;
  const auto at = [](const HeadsView& view, int64_t b, int64_t row, int64_t head) {
    return static_cast<T*>(view.data) + b * view.batch_stride + row * view.row_stride +
           head * view.head_stride;
  };
  parallel_for(0, p.batch * p.heads * tiles, 1, [&](int64_t begin, int64_t end) {
    std::vector<A> scores, sum(static_cast<size_t>(p.value_dim));
    std::vector<int64_t> seen;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t tile = task % tiles, h = task / tiles % p.heads, b = task / tiles / p.heads;
      const auto list = p.selection.list(b, h / heads_per_list, tile);
      for (int64_t t = shape.first_query(tile); t < shape.last_query(tile); ++t) {
        seen.clear();
        scores.clear();
        const T* const q = at(p.q, b, t, h);
        for (const int32_t* block = list.first; block < list.last; ++block) {
          const int64_t last =
              std::min({(*block + 1) * shape.key_block, p.keys, p.position + t + 1});
          for (int64_t s = *block * shape.key_block; s < last; ++s) {
            const T* const k = at(p.k, b, s, h / group);
            A score = 0;
            for (int64_t d = 0; d < p.dim; ++d)
              score += static_cast<A>(q[d]) * static_cast<A>(k[d]);
            seen.push_back(s);
            scores.push_back(score * static_cast<A>(p.scale));
          }
        }
        const A largest = seen.empty() ? A(0) : *std::max_element(scores.begin(), scores.end());
        A normaliser = 0;
        std::fill(sum.begin(), sum.end(), A(0));
        for (size_t j = 0; j < seen.size(); ++j) {
          const A weight = std::exp(scores[j] - largest);
          const T* const v = at(p.v, b, seen[j], h / group);
          normaliser += weight;
          for (int64_t e = 0; e < p.value_dim; ++e) sum[e] += weight * static_cast<A>(v[e]);
        }
        T* const o = at(p.o, b, t, h);
        for (int64_t e = 0; e < p.value_dim; ++e)
          o[e] = static_cast<T>(seen.empty() ? A(0) : sum[e] / normaliser);
        static_cast<A*>(p.lse)[(b * p.heads + h) * p.queries + t] =
            seen.empty() ? std::numeric_limits<A>::infinity() : largest + std::log(normaliser);
      }
    }
  });
}

}  // namespace

void selected_attention_forward_cpu(const SelectedAttentionParams& params, Stream /*stream*/) {
  dispatch_floating(params.dtype, "selected_attention", [&]<class T>() { forward<T>(params); });
}

}  // namespace weft::attention
