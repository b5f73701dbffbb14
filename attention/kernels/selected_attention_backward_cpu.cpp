// Backward of attention over listed key blocks on the CPU. A task is one key head, which owns its
// dk and dv.
#include <algorithm>
#include <cmath>
#include <vector>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "kernels/selected_attention_kernels.h"

namespace weft::attention {
namespace {

template <class T>
void backward(const SelectedAttentionBackwardParams& p) {
  using A = accumulator_t<T>;
  const SelectionShape& shape = p.selection.shape;
  const int64_t group = p.heads / p.kv_heads;
  const int64_t heads_per_list = p.heads / shape.groups;
  const auto at = [](const HeadsView& view, int64_t b, int64_t row, int64_t head) {
    return static_cast<T*>(view.data) + b * view.batch_stride + row * view.row_stride +
           head * view.head_stride;
  };
  parallel_for(0, p.batch * p.kv_heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<A> dk(static_cast<size_t>(p.keys * p.dim)),
        dv(static_cast<size_t>(p.keys * p.value_dim)), dq(static_cast<size_t>(p.dim));
    for (int64_t pair = begin; pair < end; ++pair) {
      const int64_t b = pair / p.kv_heads, kv_head = pair % p.kv_heads;
      std::fill(dk.begin(), dk.end(), A(0));
      std::fill(dv.begin(), dv.end(), A(0));
      for (int64_t t = 0; t < p.queries; ++t) {
        for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
          const auto list = p.selection.list(b, h / heads_per_list, shape.tile_of(t));
          const A lse = static_cast<const A*>(p.lse)[(b * p.heads + h) * p.queries + t];
          const T *const q = at(p.q, b, t, h), *const dout = at(p.dout, b, t, h),
                         *const o = at(p.o, b, t, h);
          A delta = 0;
          for (int64_t e = 0; e < p.value_dim; ++e)
            delta += static_cast<A>(dout[e]) * static_cast<A>(o[e]);
          std::fill(dq.begin(), dq.end(), A(0));
          for (const int32_t* block = list.first; block < list.last; ++block) {
            const int64_t last =
                std::min({(*block + 1) * shape.key_block, p.keys, p.position + t + 1});
            for (int64_t s = *block * shape.key_block; s < last; ++s) {
              const T *const k = at(p.k, b, s, kv_head), *const v = at(p.v, b, s, kv_head);
              A score = 0, dp = 0;
              for (int64_t d = 0; d < p.dim; ++d)
                score += static_cast<A>(q[d]) * static_cast<A>(k[d]);
              for (int64_t e = 0; e < p.value_dim; ++e)
                dp += static_cast<A>(dout[e]) * static_cast<A>(v[e]);
              const A weight = std::exp(score * static_cast<A>(p.scale) - lse);
              const A ds = weight * (dp - delta) * static_cast<A>(p.scale);
              for (int64_t d = 0; d < p.dim; ++d) {
                dq[d] += ds * static_cast<A>(k[d]);
                dk[s * p.dim + d] += ds * static_cast<A>(q[d]);
              }
              for (int64_t e = 0; e < p.value_dim; ++e)
                dv[s * p.value_dim + e] += weight * static_cast<A>(dout[e]);
            }
          }
          for (int64_t d = 0; d < p.dim; ++d) at(p.dq, b, t, h)[d] = static_cast<T>(dq[d]);
        }
      }
      for (int64_t s = 0; s < p.keys; ++s) {
        for (int64_t d = 0; d < p.dim; ++d)
          at(p.dk, b, s, kv_head)[d] = static_cast<T>(dk[s * p.dim + d]);
        for (int64_t e = 0; e < p.value_dim; ++e)
          at(p.dv, b, s, kv_head)[e] = static_cast<T>(dv[s * p.value_dim + e]);
      }
    }
  });
}

}  // namespace

void selected_attention_backward_cpu(const SelectedAttentionBackwardParams& params,
                                     Stream /*stream*/) {
  dispatch_floating(params.dtype, "selected_attention_backward",
                    [&]<class T>() { backward<T>(params); });
}

}  // namespace weft::attention
