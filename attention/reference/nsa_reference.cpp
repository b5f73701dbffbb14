#include "reference/nsa_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "reference/attention_reference.h"
#include "reference/block_selection_reference.h"
#include "reference/compressor_reference.h"
#include "reference/matrix.h"
#include "reference/rounding.h"

namespace weft::attention::reference {
namespace {

void add_to(Matrix& sum, const Matrix& x) {
  sum = sum.values.empty() ? x : sum + x;
}

BlockCompressorOptions compressor_options(const NsaOptions& options, int64_t dim) {
  return {.kind = options.compressor,
          .blocks = {.block = options.block, .stride = options.stride},
          .heads = options.n_kv_heads,
          .dim = dim,
          .residual = options.compressor_residual};
}

/// One attention: q [B, T, H, D], k [B, S, Hk, D], v [B, S, Hk, Dv] under a mask.
struct Branch {
  Matrix q, k, v, o, dq, dk, dv;
  Visibility visible;

  void forward(const NsaOptions& options, int64_t batch) {
    o = merged(attention_forward(heads(q, batch, options.n_heads),
                                 heads(k, batch, options.n_kv_heads),
                                 heads(v, batch, options.n_kv_heads), scale(options), visible)
                   .o);
  }
  void backward(const Matrix& dout, const NsaOptions& options, int64_t batch) {
    const FlashAttentionGradients grads =
        attention_backward(heads(dout, batch, options.n_heads), heads(q, batch, options.n_heads),
                           heads(k, batch, options.n_kv_heads), heads(v, batch, options.n_kv_heads),
                           scale(options), visible);
    dq = merged(grads.dq);
    dk = merged(grads.dk);
    dv = merged(grads.dv);
  }

  static double scale(const NsaOptions& options) {
    return 1 / std::sqrt(static_cast<double>(options.head_dim));
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
        k_compressor_(compressor_options(options, options.head_dim), parameters, "k_compressor.",
                      batch_),
        v_compressor_(compressor_options(options, options.value_dim), parameters, "v_compressor.",
                      batch_) {
    for (size_t c = 0; c < 3; ++c) {
      if (options.branches[c]) on_.push_back(c);
    }
  }

  void forward() {
    const Matrix q_raw = project("q_proj.weight"), q = turn_tokens(q_raw);
    for (Branch& one : attention_) one.q = q;
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
      attention_[c].forward(o_, batch_);
    }
    gate();
    result_.y = times_transposed(sum_, weight("o_proj.weight")).tensor(shape_);
  }

  void backward(const Tensor& dy) {
    const Matrix dout(dy), wo = weight("o_proj.weight"), dsum = times(dout, wo);
    result_.gradients["o_proj.weight"] = transposed_times(dout, sum_).tensor({wo.rows, wo.columns});
    Matrix dlogits(gates_.rows, gates_.columns);
    for (size_t i = 0; i < on_.size(); ++i) {
      Branch& one = attention_[on_[i]];
      Matrix dbranch(sum_.rows, sum_.columns);
      for (int64_t row = 0; row < sum_.rows; ++row) {
        for (int64_t column = 0; column < sum_.columns; ++column) {
          const int64_t at = gate_column(column, i);
          const double g = gates_.at(row, at), d = dsum.at(row, column);
          dbranch.at(row, column) = g * d;
          dlogits.at(row, at) += g * (1 - g) * d * one.o.at(row, column);
        }
      }
      one.backward(round_all(std::move(dbranch)), o_, batch_);
      branch_backward(on_[i]);
    }
    if (!overrides_.gates) gate_backward(round_all(std::move(dlogits)));
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
    return o_.rope_theta == 0
               ? rows
               : rotate(rows, length_, o_.head_dim, o_.rope_theta, position_, inverse);
  }
  Matrix turn_blocks(const Matrix& rows, bool inverse = false) const {
    const bool stay = o_.rope_theta == 0 || o_.compressed_rope == CompressedRope::none ||
                      o_.compressed_rope == CompressedRope::before;
    const int64_t inside = o_.compressed_rope == CompressedRope::middle ? o_.block / 2
                           : o_.compressed_rope == CompressedRope::end  ? o_.block - 1
                                                                        : 0;
    return stay ? rows
                : rotate(rows, k_compressor_.blocks(), o_.head_dim, o_.rope_theta,
                         position_ + inside, inverse, o_.stride);
  }

  /// Compressed keys, and the attention to them where it is a branch.
  void compress() {
    Branch& one = attention_[0];
    const Matrix k = project(key_name(0));
    const Matrix compressed =
        k_compressor_.forward(o_.compressed_rope == CompressedRope::before ? turn_tokens(k) : k);
    one.k = turn_blocks(compressed);
    one.visible = [this](int64_t, int64_t t, int64_t, int64_t i) {
      return i * o_.stride + o_.block - 1 <= t;
    };
    if (!o_.branches[0]) return;
    one.v = v_compressor_.forward(project(value_name(0)));
    one.forward(o_, batch_);
  }

  void select() {
    const Branch& scores = attention_[0];
    const BlockSelectionOutput chosen = select_blocks(
        heads(scores.q, batch_, o_.n_heads), heads(scores.k, batch_, o_.n_kv_heads), 0, length_,
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
    attention_[1].visible = [this](int64_t b, int64_t t, int64_t h, int64_t s) {
      const int64_t g = h / (o_.n_heads / o_.n_kv_heads);
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
      before_silu_ = project("gate_up_proj.weight");
      hidden_ = silu(before_silu_);
    }
    gates_ = times_transposed(hidden_, weight("gate_proj.weight"));
    for (int64_t row = 0; row < gates_.rows; ++row) {
      for (int64_t column = 0; column < gates_.columns; ++column) {
        double& gate = gates_.at(row, column);
        gate = overrides_.gates ? (*overrides_.gates)[on_[column % count]]
                                : rounded(sigmoid(gate + bias.values[column]));
      }
    }
    sum_ = Matrix(input_.rows, o_.n_heads * o_.value_dim);
    for (size_t i = 0; i < on_.size(); ++i) {
      const Branch& one = attention_[on_[i]];
      for (int64_t row = 0; row < sum_.rows; ++row) {
        for (int64_t column = 0; column < sum_.columns; ++column)
          sum_.at(row, column) += gates_.at(row, gate_column(column, i)) * one.o.at(row, column);
      }
      result_.branches[on_[i]] = heads(one.o, batch_, o_.n_heads);
    }
    sum_ = round_all(std::move(sum_));
  }

  /// From gradients of the turned queries, keys and values to those of the products with x.
  void branch_backward(size_t c) {
    Branch& one = attention_[c];
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
    result_.gradients["gate_proj.bias"] = round_all(dbias).tensor({dbias.columns});
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
  std::vector<size_t> on_;  // branches
  std::array<Branch, 3> attention_;
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
