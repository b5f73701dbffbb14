#include "reference/nsa_reference.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "reference/block_selection_reference.h"
#include "reference/matrix.h"

namespace weft::attention::reference {
namespace {

void add_to(Matrix& sum, const Matrix& x) {
  sum = sum.values.empty() ? x : sum + x;
}

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

/// Row r, heads of `dim` channels side by side, turned by positions[r].
Matrix turn(const Matrix& x, int64_t dim, double theta, const std::vector<double>& positions,
            bool inverse = false) {
  Matrix out = x;
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t first = 0; first < x.columns; first += dim) {
      for (int64_t i = 0; i < dim / 2; ++i) {
        const double angle =
            positions[static_cast<size_t>(r)] *
            std::pow(theta, -2 * static_cast<double>(i) / static_cast<double>(dim));
        const double c = std::cos(angle), s = inverse ? -std::sin(angle) : std::sin(angle);
        const double a = x.at(r, first + i), b = x.at(r, first + i + dim / 2);
        out.at(r, first + i) = a * c - b * s;
        out.at(r, first + i + dim / 2) = a * s + b * c;
      }
    }
  }
  return out;
}

/// One attention: q [B T, H D], k [B S, Hk D], v [B S, Hk Dv] under a mask.
struct Attention {
  int64_t batch, heads, groups, dim, value_dim;
  std::function<bool(int64_t b, int64_t t, int64_t g, int64_t s)> visible;
  Matrix q, k, v, o;
  Matrix dq, dk, dv;

  int64_t queries() const { return q.rows / batch; }
  int64_t keys() const { return k.rows / batch; }
  double scale() const { return 1 / std::sqrt(static_cast<double>(dim)); }

  std::vector<double> probabilities(int64_t b, int64_t t, int64_t h) const {
    const int64_t g = h / (heads / groups);
    std::vector<double> p(static_cast<size_t>(keys()), 0);
    double largest = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int64_t s = 0; s < keys(); ++s) {
      if (!visible(b, t, g, s)) continue;
      for (int64_t e = 0; e < dim; ++e)
        p[s] += scale() * q.at(b * queries() + t, h * dim + e) * k.at(b * keys() + s, g * dim + e);
      largest = std::max(largest, p[s]);
    }
    for (int64_t s = 0; s < keys(); ++s) {
      p[s] = visible(b, t, g, s) ? std::exp(p[s] - largest) : 0;
      sum += p[s];
    }
    for (double& value : p) value = sum > 0 ? value / sum : 0;
    return p;
  }

  template <class Body>
  void for_each_row(const Body& body) const {
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t t = 0; t < queries(); ++t) {
        for (int64_t h = 0; h < heads; ++h) body(b, t, h, h / (heads / groups));
      }
    }
  }

  void forward() {
    o = Matrix(q.rows, heads * value_dim);
    for_each_row([&](int64_t b, int64_t t, int64_t h, int64_t g) {
      const std::vector<double> p = probabilities(b, t, h);
      for (int64_t s = 0; s < keys(); ++s) {
        for (int64_t e = 0; e < value_dim; ++e)
          o.at(b * queries() + t, h * value_dim + e) +=
              p[s] * v.at(b * keys() + s, g * value_dim + e);
      }
    });
  }

  void backward(const Matrix& dout) {
    dq = Matrix(q.rows, q.columns);
    dk = Matrix(k.rows, k.columns);
    dv = Matrix(v.rows, v.columns);
    for_each_row([&](int64_t b, int64_t t, int64_t h, int64_t g) {
      const std::vector<double> p = probabilities(b, t, h);
      const int64_t row = b * queries() + t;
      std::vector<double> dp(p.size(), 0);
      double delta = 0;
      for (int64_t s = 0; s < keys(); ++s) {
        for (int64_t e = 0; e < value_dim; ++e) {
          const double d = dout.at(row, h * value_dim + e);
          dp[s] += d * v.at(b * keys() + s, g * value_dim + e);
          dv.at(b * keys() + s, g * value_dim + e) += p[s] * d;
        }
        delta += p[s] * dp[s];
      }
      for (int64_t s = 0; s < keys(); ++s) {
        const double ds = scale() * p[s] * (dp[s] - delta);
        for (int64_t e = 0; e < dim; ++e) {
          dq.at(row, h * dim + e) += ds * k.at(b * keys() + s, g * dim + e);
          dk.at(b * keys() + s, g * dim + e) += ds * q.at(row, h * dim + e);
        }
      }
    });
  }
};

/// Blocks of rows [B T, Hk D] to rows [B Nc, Hk D].
struct Compressor {
  const NsaOptions& options;
  const Parameters& parameters;
  std::string prefix;
  int64_t batch, groups, dim;
  Matrix z{}, u{}, a{}, y{};  // rows of (b, i, g): block and position, mlp before and after SiLU
  int64_t tokens = 0, blocks = 0;

  bool has(const char* name) const { return parameters.contains(prefix + name); }
  Matrix get(const char* name) const { return Matrix(parameters.at(prefix + name)); }

  template <class Body>
  void for_each_element(const Body& body) const {
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t i = 0; i < blocks; ++i) {
        for (int64_t g = 0; g < groups; ++g) {
          for (int64_t m = 0; m < options.block; ++m) {
            for (int64_t e = 0; e < dim; ++e)
              body((b * blocks + i) * groups + g, b * tokens + i * options.stride + m, g, m, e);
          }
        }
      }
    }
  }

  /// The weight of row m of a block in a pool of head g.
  double weight(const Matrix& weights, int64_t g, int64_t m) const {
    if (weights.values.empty()) return 1 / static_cast<double>(options.block);
    return weights.at(weights.rows == 1 ? 0 : g, m);
  }
  bool pools() const {
    return options.compressor == CompressorKind::mean ||
           options.compressor == CompressorKind::weighted;
  }

  Matrix forward(const Matrix& x) {
    tokens = x.rows / batch;
    blocks = tokens < options.block ? 0 : (tokens - options.block) / options.stride + 1;
    z = Matrix(batch * blocks * groups, options.block * dim);
    Matrix mean(z.rows, dim);
    const Matrix positions = has("positions") ? get("positions") : Matrix();
    for_each_element([&](int64_t row, int64_t token, int64_t g, int64_t m, int64_t e) {
      const double value = x.at(token, g * dim + e);
      mean.at(row, e) += value / static_cast<double>(options.block);
      z.at(row, m * dim + e) =
          value + (has("positions") ? positions.at(g * options.block + m, e) : 0);
    });
    if (pools()) {
      y = Matrix(z.rows, dim);
      const Matrix weights = has("weights") ? get("weights") : Matrix();
      for_each_element([&](int64_t row, int64_t, int64_t g, int64_t m, int64_t e) {
        y.at(row, e) += weight(weights, g, m) * z.at(row, m * dim + e);
      });
    } else if (options.compressor == CompressorKind::linear) {
      y = times_transposed(z, get("proj.weight"));
    } else {
      const Matrix b1 = get("up.bias"), b2 = get("down.bias");
      u = times_transposed(z, get("up.weight"));
      a = u;
      for (int64_t r = 0; r < u.rows; ++r) {
        for (int64_t j = 0; j < u.columns; ++j) {
          u.at(r, j) += b1.values[j];
          a.at(r, j) = u.at(r, j) * sigmoid(u.at(r, j));
        }
      }
      y = times_transposed(a, get("down.weight"));
      for (int64_t r = 0; r < y.rows; ++r) {
        for (int64_t e = 0; e < dim; ++e)
          y.at(r, e) += b2.values[e] + (options.compressor_residual ? mean.at(r, e) : 0);
      }
    }
    Matrix out(batch * blocks, groups * dim);
    out.values = y.values;
    return out;
  }

  /// dx of dout [B Nc, Hk D]; adds the parameters' gradients.
  Matrix backward(const Matrix& dout, Parameters& gradients) const {
    Matrix dy(z.rows, dim);
    dy.values = dout.values;
    Matrix dz(z.rows, z.columns), dx(batch * tokens, groups * dim);
    const auto put = [&](const char* name, const Matrix& gradient) {
      gradients[prefix + name] = gradient.tensor(parameters.at(prefix + name).shape());
    };
    const auto column_sums = [](const Matrix& rows) {
      Matrix sums(1, rows.columns);
      for (int64_t r = 0; r < rows.rows; ++r) {
        for (int64_t j = 0; j < rows.columns; ++j) sums.at(0, j) += rows.at(r, j);
      }
      return sums;
    };
    if (pools()) {
      const Matrix weights = has("weights") ? get("weights") : Matrix();
      Matrix dweights(weights.rows, weights.columns);
      for_each_element([&](int64_t row, int64_t, int64_t g, int64_t m, int64_t e) {
        dz.at(row, m * dim + e) = weight(weights, g, m) * dy.at(row, e);
        if (has("weights"))
          dweights.at(weights.rows == 1 ? 0 : g, m) += z.at(row, m * dim + e) * dy.at(row, e);
      });
      if (has("weights")) put("weights", dweights);
    } else if (options.compressor == CompressorKind::linear) {
      put("proj.weight", transposed_times(dy, z));
      dz = times(dy, get("proj.weight"));
    } else {
      put("down.weight", transposed_times(dy, a));
      put("down.bias", column_sums(dy));
      Matrix du = times(dy, get("down.weight"));
      for (size_t i = 0; i < du.values.size(); ++i) {
        const double s = sigmoid(u.values[i]);
        du.values[i] *= s * (1 + u.values[i] * (1 - s));
      }
      put("up.weight", transposed_times(du, z));
      put("up.bias", column_sums(du));
      dz = times(du, get("up.weight"));
    }
    Matrix dpositions(groups * options.block, dim);
    for_each_element([&](int64_t row, int64_t token, int64_t g, int64_t m, int64_t e) {
      dx.at(token, g * dim + e) += dz.at(row, m * dim + e);
      dpositions.at(g * options.block + m, e) += dz.at(row, m * dim + e);
      if (options.compressor_residual)
        dx.at(token, g * dim + e) += dy.at(row, e) / static_cast<double>(options.block);
    });
    if (has("positions")) put("positions", dpositions);
    return dx;
  }
};

}  // namespace

NsaResult nsa_layer(const NsaOptions& options, const Parameters& parameters, const Tensor& x,
                    const Tensor& dy, int64_t position, const NsaOverrides& overrides) {
  const int64_t batch = x.size(0), length = x.size(1);
  const int64_t heads = options.n_heads, groups = options.n_kv_heads;
  const int64_t dim = options.head_dim, value_dim = options.value_dim;
  const auto [cmp, slc, win] = options.branches;
  const bool none = options.compressed_rope == CompressedRope::none;
  const bool before = options.compressed_rope == CompressedRope::before;
  const auto weight = [&](const std::string& name) { return Matrix(parameters.at(name)); };
  const Matrix input(x), dout(dy);

  std::vector<double> at_token;
  for (int64_t row = 0; row < batch * length; ++row)
    at_token.push_back(static_cast<double>(position + row % length));
  const auto turn_tokens = [&](const Matrix& rows, bool inverse) {
    return options.rope_theta == 0 ? rows : turn(rows, dim, options.rope_theta, at_token, inverse);
  };

  // Projections. With shared keys and values all branches read the same.
  const auto key_name = [&](const char* branch) {
    return options.shared_kv ? std::string("k_proj.weight")
                             : fmt::format("k_proj_{}.weight", branch);
  };
  const auto value_name = [&](const char* branch) {
    return options.shared_kv ? std::string("v_proj.weight")
                             : fmt::format("v_proj_{}.weight", branch);
  };
  const auto project = [&](const std::string& name) {
    return times_transposed(input, weight(name));
  };
  const Matrix q_raw = project("q_proj.weight"), q = turn_tokens(q_raw, false);

  NsaResult result;
  std::array<Attention, 3> attention;
  for (Attention& one : attention) {
    one.batch = batch;
    one.heads = heads;
    one.groups = groups;
    one.dim = dim;
    one.value_dim = value_dim;
    one.q = q;
  }

  // Compressed branch.
  Compressor k_compressor{options, parameters, "k_compressor.", batch, groups, dim};
  Compressor v_compressor{options, parameters, "v_compressor.", batch, groups, value_dim};
  std::vector<double> at_block;
  const auto turn_blocks = [&](const Matrix& rows, bool inverse) {
    return options.rope_theta == 0 || none || before
               ? rows
               : turn(rows, dim, options.rope_theta, at_block, inverse);
  };
  if (cmp || slc) {
    Attention& one = attention[0];
    const Matrix k_raw = project(key_name("cmp"));
    const Matrix compressed = k_compressor.forward(before ? turn_tokens(k_raw, false) : k_raw);
    const int64_t inside = options.compressed_rope == CompressedRope::start    ? 0
                           : options.compressed_rope == CompressedRope::middle ? options.block / 2
                                                                               : options.block - 1;
    for (int64_t row = 0; row < compressed.rows; ++row) {
      at_block.push_back(
          static_cast<double>(position + row % k_compressor.blocks * options.stride + inside));
    }
    one.k = turn_blocks(compressed, false);
    if (none) one.q = q_raw;
    one.visible = [&options](int64_t, int64_t t, int64_t, int64_t i) {
      return i * options.stride + options.block - 1 <= t;
    };
    if (cmp) {
      one.v = v_compressor.forward(project(value_name("cmp")));
      one.forward();
    }
  }

  // Selected branch.
  std::vector<std::vector<bool>> listed;  // [list][block]
  if (slc) {
    const Attention& scores = attention[0];
    const BlockSelectionOutput chosen =
        select_blocks(scores.q.tensor({batch, length, heads, dim}),
                      scores.k.tensor({batch, k_compressor.blocks, groups, dim}), 0, length,
                      {.compression_block = options.block,
                       .compression_stride = options.stride,
                       .key_block = options.select_block,
                       .count = options.select_count,
                       .initial = options.initial,
                       .local = options.local});
    result.selection = chosen.selection;
    const Selection& read =
        overrides.selection != nullptr ? *overrides.selection : chosen.selection;
    result.gap = std::numeric_limits<double>::infinity();
    for (const double gap : chosen.gap.to_vector<double>()) result.gap = std::min(result.gap, gap);
    const int64_t blocks = (length + options.select_block - 1) / options.select_block;
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t g = 0; g < groups; ++g) {
        for (int64_t t = 0; t < length; ++t) {
          std::vector<bool>& mask =
              listed.emplace_back(std::vector<bool>(static_cast<size_t>(blocks)));
          for (const int32_t block : read.list(b, g, t)) mask[block] = true;
        }
      }
    }
    Attention& one = attention[1];
    one.k = turn_tokens(project(key_name("slc")), false);
    one.v = project(value_name("slc"));
    one.visible = [&](int64_t b, int64_t t, int64_t g, int64_t s) {
      return s <= t && listed[(b * groups + g) * length + t][s / options.select_block];
    };
    one.forward();
  }

  // Window branch.
  if (win) {
    Attention& one = attention[2];
    one.k = turn_tokens(project(key_name("win")), false);
    one.v = project(value_name("win"));
    one.visible = [&options](int64_t, int64_t t, int64_t, int64_t s) {
      return s <= t && s > t - options.window;
    };
    one.forward();
  }

  // Gates.
  std::vector<size_t> on;
  for (size_t c = 0; c < 3; ++c) {
    if (options.branches[c]) on.push_back(c);
  }
  const auto count = static_cast<int64_t>(on.size());
  const Matrix bias = weight("gate_proj.bias");
  Matrix u, hidden = input;
  if (options.gate_hidden > 0) {
    u = project("gate_up_proj.weight");
    hidden = u;
    for (double& value : hidden.values) value *= sigmoid(value);
  }
  Matrix gates = times_transposed(hidden, weight("gate_proj.weight"));
  for (int64_t row = 0; row < gates.rows; ++row) {
    for (int64_t column = 0; column < gates.columns; ++column) {
      double& gate = gates.at(row, column);
      gate = overrides.gates ? (*overrides.gates)[on[column % count]]
                             : sigmoid(gate + bias.values[column]);
    }
  }
  Matrix o(input.rows, heads * value_dim);
  for (int64_t row = 0; row < o.rows; ++row) {
    for (int64_t column = 0; column < o.columns; ++column) {
      for (int64_t c = 0; c < count; ++c) {
        o.at(row, column) +=
            gates.at(row, column / value_dim * count + c) * attention[on[c]].o.at(row, column);
      }
    }
  }
  const Matrix wo = weight("o_proj.weight");
  result.y = times_transposed(o, wo).tensor(x.shape());
  for (int64_t c = 0; c < count; ++c) {
    result.branches[on[c]] = attention[on[c]].o.tensor({batch, length, heads, value_dim});
    Matrix gate(input.rows, heads);
    for (int64_t row = 0; row < gate.rows; ++row) {
      for (int64_t h = 0; h < heads; ++h) gate.at(row, h) = gates.at(row, h * count + c);
    }
    result.gates[on[c]] = gate.tensor({batch, length, heads});
  }

  // Backward.
  Matrix dx(input.rows, input.columns);
  std::map<std::string, Matrix> products;  // gradients of the results of products with x
  const Matrix d_o = times(dout, wo);
  result.gradients["o_proj.weight"] = transposed_times(dout, o).tensor({wo.rows, wo.columns});
  Matrix dlogits(gates.rows, gates.columns);
  for (int64_t c = 0; c < count; ++c) {
    Attention& one = attention[on[c]];
    Matrix dbranch(o.rows, o.columns);
    for (int64_t row = 0; row < o.rows; ++row) {
      for (int64_t column = 0; column < o.columns; ++column) {
        const int64_t gate_column = column / value_dim * count + c;
        const double g = gates.at(row, gate_column);
        dbranch.at(row, column) = g * d_o.at(row, column);
        dlogits.at(row, gate_column) += g * (1 - g) * d_o.at(row, column) * one.o.at(row, column);
      }
    }
    one.backward(dbranch);
    if (on[c] == 0) {
      add_to(products["q_proj.weight"], none ? one.dq : turn_tokens(one.dq, true));
      const Matrix dk = k_compressor.backward(turn_blocks(one.dk, true), result.gradients);
      add_to(products[key_name("cmp")], before ? turn_tokens(dk, true) : dk);
      add_to(products[value_name("cmp")], v_compressor.backward(one.dv, result.gradients));
    } else {
      const char* const name = on[c] == 1 ? "slc" : "win";
      add_to(products["q_proj.weight"], turn_tokens(one.dq, true));
      add_to(products[key_name(name)], turn_tokens(one.dk, true));
      add_to(products[value_name(name)], one.dv);
    }
  }
  if (!overrides.gates) {
    Matrix dbias(1, dlogits.columns);
    for (int64_t row = 0; row < dlogits.rows; ++row) {
      for (int64_t column = 0; column < dlogits.columns; ++column)
        dbias.at(0, column) += dlogits.at(row, column);
    }
    result.gradients["gate_proj.bias"] = dbias.tensor({dbias.columns});
    if (options.gate_hidden > 0) {
      const Matrix wg = weight("gate_proj.weight");
      result.gradients["gate_proj.weight"] =
          transposed_times(dlogits, hidden).tensor({wg.rows, wg.columns});
      Matrix du = times(dlogits, wg);
      for (size_t i = 0; i < du.values.size(); ++i) {
        const double s = sigmoid(u.values[i]);
        du.values[i] *= s * (1 + u.values[i] * (1 - s));
      }
      products["gate_up_proj.weight"] = du;
    } else {
      products["gate_proj.weight"] = dlogits;
    }
  }
  for (const auto& [name, gradient] : products) {
    result.gradients[name] =
        transposed_times(gradient, input).tensor({gradient.columns, input.columns});
    dx = dx + times(gradient, weight(name));
  }
  result.dx = dx.tensor(x.shape());
  return result;
}

}  // namespace weft::attention::reference
