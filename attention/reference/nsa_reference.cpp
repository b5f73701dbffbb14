#include "reference/nsa_reference.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

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

/// The gradient of u, given that of silu(u).
Matrix silu_backward(Matrix gradient, const Matrix& u) {
  for (size_t i = 0; i < u.values.size(); ++i) {
    const double s = sigmoid(u.values[i]);
    gradient.values[i] *= s * (1 + u.values[i] * (1 - s));
  }
  return gradient;
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
      const Matrix du = silu_backward(times(dy, get("down.weight")), u);
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

class Layer {
 public:
  Layer(const NsaOptions& options, const Parameters& parameters, const Tensor& x, int64_t position,
        const NsaOverrides& overrides)
      : o_(options),
        parameters_(parameters),
        overrides_(overrides),
        shape_(x.shape()),
        batch_(x.size(0)),
        length_(x.size(1)),
        position_(position),
        input_(x),
        k_compressor_{options, parameters,         "k_compressor.",
                      batch_,  options.n_kv_heads, options.head_dim},
        v_compressor_{options, parameters,         "v_compressor.",
                      batch_,  options.n_kv_heads, options.value_dim} {
    for (int64_t row = 0; row < batch_ * length_; ++row)
      at_token_.push_back(static_cast<double>(position + row % length_));
    for (size_t c = 0; c < 3; ++c) {
      if (options.branches[c]) on_.push_back(c);
    }
  }

  void forward() {
    const Matrix q_raw = project("q_proj.weight"), q = turn_tokens(q_raw);
    for (Attention& one : attention_) {
      one.batch = batch_;
      one.heads = o_.n_heads;
      one.groups = o_.n_kv_heads;
      one.dim = o_.head_dim;
      one.value_dim = o_.value_dim;
      one.q = q;
    }
    if (o_.branches[0] || o_.branches[1]) {
      if (o_.compressed_rope == CompressedRope::none) attention_[0].q = q_raw;
      compress();
    }
    if (o_.branches[1]) select();
    if (o_.branches[2]) {
      attention_[2].visible = [this](int64_t, int64_t t, int64_t, int64_t s) {
        return s <= t && s > t - o_.window;
      };
    }
    for (const size_t c : {size_t{1}, size_t{2}}) {
      if (!o_.branches[c]) continue;
      attention_[c].k = turn_tokens(project(key_name(c)));
      attention_[c].v = project(value_name(c));
      attention_[c].forward();
    }
    gate();
    result_.y = times_transposed(sum_, weight("o_proj.weight")).tensor(shape_);
  }

  void backward(const Tensor& dy) {
    const Matrix dout(dy), wo = weight("o_proj.weight"), dsum = times(dout, wo);
    result_.gradients["o_proj.weight"] = transposed_times(dout, sum_).tensor({wo.rows, wo.columns});
    Matrix dlogits(gates_.rows, gates_.columns);
    for (size_t i = 0; i < on_.size(); ++i) {
      Attention& one = attention_[on_[i]];
      Matrix dbranch(sum_.rows, sum_.columns);
      for (int64_t row = 0; row < sum_.rows; ++row) {
        for (int64_t column = 0; column < sum_.columns; ++column) {
          const int64_t at = gate_column(column, i);
          const double g = gates_.at(row, at), d = dsum.at(row, column);
          dbranch.at(row, column) = g * d;
          dlogits.at(row, at) += g * (1 - g) * d * one.o.at(row, column);
        }
      }
      one.backward(dbranch);
      branch_backward(on_[i]);
    }
    if (!overrides_.gates) gate_backward(dlogits);
    Matrix dx(input_.rows, input_.columns);
    for (const auto& [name, gradient] : products_) {
      result_.gradients[name] =
          transposed_times(gradient, input_).tensor({gradient.columns, input_.columns});
      dx = dx + times(gradient, weight(name));
    }
    result_.dx = dx.tensor(shape_);
  }

  NsaResult take_result() { return std::move(result_); }

 private:
  Matrix weight(const std::string& name) const { return Matrix(parameters_.at(name)); }
  Matrix project(const std::string& name) const { return times_transposed(input_, weight(name)); }

  /// With shared keys and values all branches read the same product.
  std::string key_name(size_t branch) const {
    return o_.shared_kv ? "k_proj.weight" : std::string("k_proj_") + kNames[branch] + ".weight";
  }
  std::string value_name(size_t branch) const {
    return o_.shared_kv ? "v_proj.weight" : std::string("v_proj_") + kNames[branch] + ".weight";
  }

  Matrix turn_tokens(const Matrix& rows, bool inverse = false) const {
    return o_.rope_theta == 0 ? rows : turn(rows, o_.head_dim, o_.rope_theta, at_token_, inverse);
  }
  Matrix turn_blocks(const Matrix& rows, bool inverse = false) const {
    const bool stay = o_.rope_theta == 0 || o_.compressed_rope == CompressedRope::none ||
                      o_.compressed_rope == CompressedRope::before;
    return stay ? rows : turn(rows, o_.head_dim, o_.rope_theta, at_block_, inverse);
  }

  /// Compressed keys, and the attention to them where it is a branch.
  void compress() {
    Attention& one = attention_[0];
    const Matrix k = project(key_name(0));
    const Matrix compressed =
        k_compressor_.forward(o_.compressed_rope == CompressedRope::before ? turn_tokens(k) : k);
    const int64_t inside = o_.compressed_rope == CompressedRope::middle ? o_.block / 2
                           : o_.compressed_rope == CompressedRope::end  ? o_.block - 1
                                                                        : 0;
    for (int64_t row = 0; row < compressed.rows; ++row) {
      at_block_.push_back(
          static_cast<double>(position_ + row % k_compressor_.blocks * o_.stride + inside));
    }
    one.k = turn_blocks(compressed);
    one.visible = [this](int64_t, int64_t t, int64_t, int64_t i) {
      return i * o_.stride + o_.block - 1 <= t;
    };
    if (!o_.branches[0]) return;
    one.v = v_compressor_.forward(project(value_name(0)));
    one.forward();
  }

  void select() {
    const Attention& scores = attention_[0];
    const BlockSelectionOutput chosen = select_blocks(
        scores.q.tensor({batch_, length_, o_.n_heads, o_.head_dim}),
        scores.k.tensor({batch_, k_compressor_.blocks, o_.n_kv_heads, o_.head_dim}), 0, length_,
        {.compression_block = o_.block,
         .compression_stride = o_.stride,
         .key_block = o_.select_block,
         .count = o_.select_count,
         .initial = o_.initial,
         .local = o_.local});
    result_.selection = chosen.selection;
    result_.gap = std::numeric_limits<double>::infinity();
    for (const double gap : chosen.gap.to_vector<double>())
      result_.gap = std::min(result_.gap, gap);
    const Selection& read =
        overrides_.selection != nullptr ? *overrides_.selection : chosen.selection;
    const int64_t blocks = (length_ + o_.select_block - 1) / o_.select_block;
    for (int64_t b = 0; b < batch_; ++b) {
      for (int64_t g = 0; g < o_.n_kv_heads; ++g) {
        for (int64_t t = 0; t < length_; ++t) {
          std::vector<bool>& mask = listed_.emplace_back(static_cast<size_t>(blocks));
          for (const int32_t block : read.list(b, g, t)) mask[block] = true;
        }
      }
    }
    attention_[1].visible = [this](int64_t b, int64_t t, int64_t g, int64_t s) {
      return s <= t && listed_[(b * o_.n_kv_heads + g) * length_ + t][s / o_.select_block];
    };
  }

  /// Where the gate of a column of the sum stands for the i-th branch that is on.
  int64_t gate_column(int64_t column, size_t i) const {
    return column / o_.value_dim * static_cast<int64_t>(on_.size()) + static_cast<int64_t>(i);
  }

  void gate() {
    const auto count = static_cast<int64_t>(on_.size());
    const Matrix bias = weight("gate_proj.bias");
    hidden_ = input_;
    if (o_.gate_hidden > 0) {
      before_silu_ = hidden_ = project("gate_up_proj.weight");
      for (double& value : hidden_.values) value *= sigmoid(value);
    }
    gates_ = times_transposed(hidden_, weight("gate_proj.weight"));
    for (int64_t row = 0; row < gates_.rows; ++row) {
      for (int64_t column = 0; column < gates_.columns; ++column) {
        double& gate = gates_.at(row, column);
        gate = overrides_.gates ? (*overrides_.gates)[on_[column % count]]
                                : sigmoid(gate + bias.values[column]);
      }
    }
    sum_ = Matrix(input_.rows, o_.n_heads * o_.value_dim);
    for (size_t i = 0; i < on_.size(); ++i) {
      const Attention& one = attention_[on_[i]];
      for (int64_t row = 0; row < sum_.rows; ++row) {
        for (int64_t column = 0; column < sum_.columns; ++column)
          sum_.at(row, column) += gates_.at(row, gate_column(column, i)) * one.o.at(row, column);
      }
      result_.branches[on_[i]] = one.o.tensor({batch_, length_, o_.n_heads, o_.value_dim});
    }
  }

  /// From gradients of the turned queries, keys and values to those of the products with x.
  void branch_backward(size_t c) {
    Attention& one = attention_[c];
    if (c > 0) {
      add_to(products_["q_proj.weight"], turn_tokens(one.dq, true));
      add_to(products_[key_name(c)], turn_tokens(one.dk, true));
      add_to(products_[value_name(c)], one.dv);
      return;
    }
    const bool none = o_.compressed_rope == CompressedRope::none;
    const bool before = o_.compressed_rope == CompressedRope::before;
    add_to(products_["q_proj.weight"], none ? one.dq : turn_tokens(one.dq, true));
    const Matrix dk = k_compressor_.backward(turn_blocks(one.dk, true), result_.gradients);
    add_to(products_[key_name(0)], before ? turn_tokens(dk, true) : dk);
    add_to(products_[value_name(0)], v_compressor_.backward(one.dv, result_.gradients));
  }

  void gate_backward(const Matrix& dlogits) {
    Matrix dbias(1, dlogits.columns);
    for (int64_t row = 0; row < dlogits.rows; ++row) {
      for (int64_t column = 0; column < dlogits.columns; ++column)
        dbias.at(0, column) += dlogits.at(row, column);
    }
    result_.gradients["gate_proj.bias"] = dbias.tensor({dbias.columns});
    if (o_.gate_hidden == 0) {
      products_["gate_proj.weight"] = dlogits;
      return;
    }
    const Matrix wg = weight("gate_proj.weight");
    result_.gradients["gate_proj.weight"] =
        transposed_times(dlogits, hidden_).tensor({wg.rows, wg.columns});
    products_["gate_up_proj.weight"] = silu_backward(times(dlogits, wg), before_silu_);
  }

  static constexpr std::array<const char*, 3> kNames = {"cmp", "slc", "win"};

  const NsaOptions& o_;
  const Parameters& parameters_;
  const NsaOverrides& overrides_;
  Shape shape_;
  int64_t batch_, length_, position_;
  Matrix input_;
  Compressor k_compressor_, v_compressor_;
  std::vector<double> at_token_, at_block_;  // positions of the rows of tokens and blocks
  std::vector<size_t> on_;                   // branches
  std::array<Attention, 3> attention_;
  std::vector<std::vector<bool>> listed_;  // [list][block]
  Matrix before_silu_, hidden_, gates_, sum_;
  std::map<std::string, Matrix> products_;  // gradients of products with x, by their weight
  NsaResult result_;
};

}  // namespace

NsaResult nsa_layer(const NsaOptions& options, const Parameters& parameters, const Tensor& x,
                    const Tensor& dy, int64_t position, const NsaOverrides& overrides) {
  Layer layer(options, parameters, x, position, overrides);
  layer.forward();
  layer.backward(dy);
  return layer.take_result();
}

}  // namespace weft::attention::reference
