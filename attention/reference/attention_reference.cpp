#include "reference/attention_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "reference/rounding.h"

namespace weft::attention::reference {
namespace {

/// q, k and v as dense doubles, with the sizes of the problem.
struct Problem {
  Problem(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, double scale_in,
          const Visibility& visible_in)
      : visible(visible_in),
        batch(q_in.size(0)),
        queries(q_in.size(1)),
        heads(q_in.size(2)),
        dim(q_in.size(3)),
        keys(k_in.size(1)),
        kv_heads(k_in.size(2)),
        value_dim(v_in.size(3)),
        scale(scale_in),
        q(q_in.to_vector<double>()),
        k(k_in.to_vector<double>()),
        v(v_in.to_vector<double>()) {}

  int64_t query_row(int64_t b, int64_t t, int64_t h) const { return (b * queries + t) * heads + h; }
  int64_t key_row(int64_t b, int64_t s, int64_t h) const {
    return (b * keys + s) * kv_heads + h / (heads / kv_heads);
  }

  /// The keys that a row sees, exp(s_j - L) for each of them, and L.
  double probabilities(int64_t b, int64_t t, int64_t h, std::vector<int64_t>& seen,
                       std::vector<double>& p) const {
    seen.clear();
    p.clear();
    for (int64_t s = 0; s < keys; ++s) {
      if (!visible(b, t, h, s)) continue;
      double score = 0;
      for (int64_t d = 0; d < dim; ++d)
        score += q[query_row(b, t, h) * dim + d] * k[key_row(b, s, h) * dim + d];
      seen.push_back(s);
      p.push_back(rounded(scale * rounded(score)));
    }
    if (seen.empty()) return std::numeric_limits<double>::infinity();
    const double largest = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (double& value : p) sum += value = std::exp(value - largest);
    for (double& value : p) value = rounded(value / sum);
    return largest + std::log(sum);
  }

  const Visibility& visible;
  int64_t batch, queries, heads, dim, keys, kv_heads, value_dim;
  double scale;
  std::vector<double> q, k, v;
};

double scale_of(const std::optional<double>& scale, const Tensor& q) {
  return scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))));
}

Visibility visibility_of(const Tensor& q, const Tensor& k, const FlashAttentionOptions& options) {
  const int64_t first = options.position.value_or(k.size(1) - q.size(1));
  return [first, options](int64_t, int64_t t, int64_t, int64_t s) {
    const int64_t last_token = s * options.key_stride + options.key_length - 1;
    return (!options.causal || last_token <= first + t) &&
           (options.window == 0 || s > first + t - options.window);
  };
}

Visibility visibility_of(const Tensor& q, const Selection& selection) {
  const int64_t heads_per_group = q.size(2) / selection.shape().groups;
  return [heads_per_group, selection](int64_t b, int64_t t, int64_t h, int64_t s) {
    const SelectionShape& shape = selection.shape();
    const auto list = selection.list(b, h / heads_per_group, shape.tile_of(t));
    return s <= shape.position + t &&
           std::find(list.begin(), list.end(), s / shape.key_block) != list.end();
  };
}

}  // namespace

FlashAttentionOutput attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                       double scale, const Visibility& visible) {
  const Problem x(q, k, v, scale, visible);
  std::vector<double> o(static_cast<size_t>(x.batch * x.queries * x.heads * x.value_dim));
  std::vector<double> lse(static_cast<size_t>(x.batch * x.heads * x.queries));
  std::vector<int64_t> seen;
  std::vector<double> p;
  for (int64_t b = 0; b < x.batch; ++b) {
    for (int64_t h = 0; h < x.heads; ++h) {
      for (int64_t t = 0; t < x.queries; ++t) {
        lse[(b * x.heads + h) * x.queries + t] = x.probabilities(b, t, h, seen, p);
        double* const row = o.data() + x.query_row(b, t, h) * x.value_dim;
        for (size_t j = 0; j < seen.size(); ++j) {
          for (int64_t e = 0; e < x.value_dim; ++e)
            row[e] += p[j] * x.v[x.key_row(b, seen[j], h) * x.value_dim + e];
        }
        for (int64_t e = 0; e < x.value_dim; ++e) row[e] = rounded(row[e]);
      }
    }
  }
  return {from_vector(o, {x.batch, x.queries, x.heads, x.value_dim}),
          from_vector(lse, {x.batch, x.heads, x.queries})};
}

FlashAttentionGradients attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k,
                                           const Tensor& v, double scale,
                                           const Visibility& visible) {
  const Problem x(q, k, v, scale, visible);
  const std::vector<double> d_o = dout.to_vector<double>();
  std::vector<double> dq(x.q.size()), dk(x.k.size()), dv(x.v.size());
  std::vector<int64_t> seen;
  std::vector<double> p, dp, o;
  for (int64_t b = 0; b < x.batch; ++b) {
    for (int64_t h = 0; h < x.heads; ++h) {
      for (int64_t t = 0; t < x.queries; ++t) {
        x.probabilities(b, t, h, seen, p);
        dp.assign(seen.size(), 0);
        const int64_t row = x.query_row(b, t, h);
        o.assign(static_cast<size_t>(x.value_dim), 0);
        for (size_t j = 0; j < seen.size(); ++j) {
          const int64_t key = x.key_row(b, seen[j], h);
          for (int64_t e = 0; e < x.value_dim; ++e) {
            const double value = x.v[key * x.value_dim + e];
            o[e] += p[j] * value;
            dp[j] += d_o[row * x.value_dim + e] * value;
            dv[key * x.value_dim + e] += p[j] * d_o[row * x.value_dim + e];
          }
          dp[j] = rounded(dp[j]);
        }
        double delta = 0;  // sum_j p_j dp_j
        for (int64_t e = 0; e < x.value_dim; ++e)
          delta += rounded(o[e]) * d_o[row * x.value_dim + e];
        for (size_t j = 0; j < seen.size(); ++j) {
          const int64_t key = x.key_row(b, seen[j], h);
          const double ds = rounded(p[j] * (dp[j] - delta) * x.scale);
          for (int64_t d = 0; d < x.dim; ++d) {
            dq[row * x.dim + d] += ds * x.k[key * x.dim + d];
            dk[key * x.dim + d] += ds * x.q[row * x.dim + d];
          }
        }
      }
    }
  }
  for (std::vector<double>* gradient : {&dq, &dk, &dv}) {
    for (double& value : *gradient) value = rounded(value);
  }
  return {from_vector(dq, q.shape()), from_vector(dk, k.shape()), from_vector(dv, v.shape())};
}

FlashAttentionOutput attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                       const FlashAttentionOptions& options) {
  return attention_forward(q, k, v, scale_of(options.scale, q), visibility_of(q, k, options));
}

FlashAttentionGradients attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k,
                                           const Tensor& v, const FlashAttentionOptions& options) {
  return attention_backward(dout, q, k, v, scale_of(options.scale, q),
                            visibility_of(q, k, options));
}

FlashAttentionOutput selected_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                                const Selection& selection,
                                                const SelectedAttentionOptions& options) {
  return attention_forward(q, k, v, scale_of(options.scale, q), visibility_of(q, selection));
}

FlashAttentionGradients selected_attention_backward(const Tensor& dout, const Tensor& q,
                                                    const Tensor& k, const Tensor& v,
                                                    const Selection& selection,
                                                    const SelectedAttentionOptions& options) {
  return attention_backward(dout, q, k, v, scale_of(options.scale, q), visibility_of(q, selection));
}

}  // namespace weft::attention::reference
