#include "reference/attention_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace weft::attention::reference {
namespace {

/// q, k and v as dense doubles, with the sizes of the problem.
struct Problem {
  Problem(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in,
          const FlashAttentionOptions& options_in)
      : options(options_in),
        batch(q_in.size(0)),
        queries(q_in.size(1)),
        heads(q_in.size(2)),
        dim(q_in.size(3)),
        keys(k_in.size(1)),
        kv_heads(k_in.size(2)),
        value_dim(v_in.size(3)),
        scale(options_in.scale.value_or(1 / std::sqrt(static_cast<double>(dim)))),
        q(q_in.to_vector<double>()),
        k(k_in.to_vector<double>()),
        v(v_in.to_vector<double>()) {}

  int64_t query_row(int64_t b, int64_t t, int64_t h) const { return (b * queries + t) * heads + h; }
  int64_t key_row(int64_t b, int64_t s, int64_t h) const {
    return (b * keys + s) * kv_heads + h / (heads / kv_heads);
  }
  bool visible(int64_t t, int64_t s) const {
    const int64_t position = options.position.value_or(keys - queries) + t;
    const int64_t last_token = s * options.key_stride + options.key_length - 1;
    return (!options.causal || last_token <= position) &&
           (options.window == 0 || s > position - options.window);
  }

  /// exp(s_j - L) for all keys (0 where hidden), and L.
  double probabilities(int64_t b, int64_t t, int64_t h, std::vector<double>& p) const {
    p.assign(static_cast<size_t>(keys), -std::numeric_limits<double>::infinity());
    double largest = -std::numeric_limits<double>::infinity();
    for (int64_t s = 0; s < keys; ++s) {
      if (!visible(t, s)) continue;
      double score = 0;
      for (int64_t d = 0; d < dim; ++d)
        score += q[query_row(b, t, h) * dim + d] * k[key_row(b, s, h) * dim + d];
      p[s] = scale * score;
      largest = std::max(largest, p[s]);
    }
    double sum = 0;
    for (int64_t s = 0; s < keys; ++s) {
      p[s] = visible(t, s) ? std::exp(p[s] - largest) : 0;
      sum += p[s];
    }
    if (sum == 0) return std::numeric_limits<double>::infinity();
    for (double& value : p) value /= sum;
    return largest + std::log(sum);
  }

  FlashAttentionOptions options;
  int64_t batch, queries, heads, dim, keys, kv_heads, value_dim;
  double scale;
  std::vector<double> q, k, v;
};

}  // namespace

FlashAttentionOutput attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                       const FlashAttentionOptions& options) {
  const Problem x(q, k, v, options);
  std::vector<double> o(static_cast<size_t>(x.batch * x.queries * x.heads * x.value_dim));
  std::vector<double> lse(static_cast<size_t>(x.batch * x.heads * x.queries));
  std::vector<double> p;
  for (int64_t b = 0; b < x.batch; ++b) {
    for (int64_t h = 0; h < x.heads; ++h) {
      for (int64_t t = 0; t < x.queries; ++t) {
        lse[(b * x.heads + h) * x.queries + t] = x.probabilities(b, t, h, p);
        double* const row = o.data() + x.query_row(b, t, h) * x.value_dim;
        for (int64_t s = 0; s < x.keys; ++s) {
          for (int64_t e = 0; e < x.value_dim && x.visible(t, s); ++e)
            row[e] += p[s] * x.v[x.key_row(b, s, h) * x.value_dim + e];
        }
      }
    }
  }
  return {from_vector(o, {x.batch, x.queries, x.heads, x.value_dim}),
          from_vector(lse, {x.batch, x.heads, x.queries})};
}

FlashAttentionGradients attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k,
                                           const Tensor& v, const FlashAttentionOptions& options) {
  const Problem x(q, k, v, options);
  const std::vector<double> d_o = dout.to_vector<double>();
  std::vector<double> dq(x.q.size()), dk(x.k.size()), dv(x.v.size());
  std::vector<double> p, dp(static_cast<size_t>(x.keys));
  for (int64_t b = 0; b < x.batch; ++b) {
    for (int64_t h = 0; h < x.heads; ++h) {
      for (int64_t t = 0; t < x.queries; ++t) {
        x.probabilities(b, t, h, p);
        const int64_t row = x.query_row(b, t, h);
        double delta = 0;
        for (int64_t s = 0; s < x.keys; ++s) {
          if (!x.visible(t, s)) continue;
          const int64_t key = x.key_row(b, s, h);
          dp[s] = 0;
          for (int64_t e = 0; e < x.value_dim; ++e) {
            dp[s] += d_o[row * x.value_dim + e] * x.v[key * x.value_dim + e];
            dv[key * x.value_dim + e] += p[s] * d_o[row * x.value_dim + e];
          }
          delta += p[s] * dp[s];
        }
        for (int64_t s = 0; s < x.keys; ++s) {
          if (!x.visible(t, s)) continue;
          const int64_t key = x.key_row(b, s, h);
          const double ds = p[s] * (dp[s] - delta) * x.scale;
          for (int64_t d = 0; d < x.dim; ++d) {
            dq[row * x.dim + d] += ds * x.k[key * x.dim + d];
            dk[key * x.dim + d] += ds * x.q[row * x.dim + d];
          }
        }
      }
    }
  }
  return {from_vector(dq, q.shape()), from_vector(dk, k.shape()), from_vector(dv, v.shape())};
}

}  // namespace weft::attention::reference
