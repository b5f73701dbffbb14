#include "weft/attention/block_compressor.h"

#include <algorithm>

#include "weft/autograd/functions/activation.h"
#include "weft/autograd/functions/arithmetic.h"
#include "weft/autograd/functions/join.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/view.h"
#include "weft/autograd/node.h"
#include "weft/nn/init.h"
#include "weft/tensor/check.h"

namespace weft::attention {
namespace {

using autograd::record;
using autograd::SavedTensor;

BlockCompressorOptions resolve(BlockCompressorOptions options) {
  validate(options.blocks);
  WEFT_CHECK(options.blocks.block % options.blocks.stride == 0, ConfigError,
             "compressor: block ({}) must be a multiple of stride ({})", options.blocks.block,
             options.blocks.stride);
  WEFT_CHECK(options.heads >= 1 && options.dim >= 1, ConfigError,
             "compressor: heads and dim must be at least 1, got {} and {}", options.heads,
             options.dim);
  WEFT_CHECK(options.hidden >= 0, ConfigError,
             "compressor: hidden must be above 0, or 0 for twice the dim, got {}", options.hidden);
  WEFT_CHECK(!options.residual || options.kind == CompressorKind::mlp, ConfigError,
             "compressor: residual needs the kind mlp, got {}", name_of(options.kind));
  WEFT_CHECK(options.init_std > 0, ConfigError, "compressor: init_std must be above 0, got {}",
             options.init_std);
  if (options.hidden == 0) options.hidden = 2 * options.dim;
  return options;
}

const Tensor& data_or_undefined(const Variable& x) {
  static const Tensor undefined;
  return x.defined() ? x.data() : undefined;
}

Variable block_pool(const Variable& x, const BlockShape& shape, const Variable& weights,
                    const Variable& positions) {
  Tensor y =
      block_pool_forward(x.data(), shape, data_or_undefined(weights), data_or_undefined(positions));
  if (!weights.defined() && !positions.defined()) {
    return record("block_pool", std::move(y), {x},
                  [tokens = x.size(1), shape](const Tensor& dy) -> std::vector<Tensor> {
                    return {block_pool_backward_input(dy, tokens, shape)};
                  });
  }
  return record("block_pool", std::move(y), {x, weights, positions},
                [x = SavedTensor(x.data()), weights = SavedTensor(data_or_undefined(weights)),
                 positions = SavedTensor(data_or_undefined(positions)),
                 shape](const Tensor& dy) -> std::vector<Tensor> {
                  const BlockPoolGradients grads =
                      block_pool_backward(dy, x.get(), shape, weights.get(), positions.get());
                  return {grads.dx, grads.dweights, grads.dpositions};
                });
}

Variable block_unfold(const Variable& x, const BlockShape& shape, const Variable& positions) {
  return record("block_unfold", block_unfold_forward(x.data(), shape, data_or_undefined(positions)),
                {x, positions},
                [tokens = x.size(1), shape, has_positions = positions.defined(),
                 dtype = positions.defined() ? positions.dtype()
                                             : x.dtype()](const Tensor& dz) -> std::vector<Tensor> {
                  return {
                      block_unfold_backward_input(dz, tokens, shape),
                      has_positions ? block_unfold_backward_positions(dz, shape, dtype) : Tensor()};
                });
}

/// The rows of each head of a weight or bias that holds `count` of them.
std::vector<Variable> split_rows(const Variable& parameter, int64_t count) {
  if (!parameter.defined()) return std::vector<Variable>(static_cast<size_t>(count));
  if (count == 1) return {parameter};
  return autograd::split(parameter, parameter.size(0) / count, 0);
}

/// linear() of every piece of x with its rows of the layer.
std::vector<Variable> linear_rows(const nn::Linear& layer, const std::vector<Variable>& x) {
  const auto count = static_cast<int64_t>(x.size());
  const std::vector<Variable> weights = split_rows(layer.weight, count);
  const std::vector<Variable> biases = split_rows(layer.bias, count);
  std::vector<Variable> y;
  for (size_t i = 0; i < x.size(); ++i) y.push_back(autograd::linear(x[i], weights[i], biases[i]));
  return y;
}

}  // namespace

const std::vector<std::string>& compressor_kinds() {
  static const std::vector<std::string> names = {"mean", "weighted", "linear", "mlp"};
  return names;
}

CompressorKind parse_compressor_kind(std::string_view name) {
  const std::vector<std::string>& names = compressor_kinds();
  const auto found = std::find(names.begin(), names.end(), name);
  WEFT_CHECK(found != names.end(), ConfigError, "compressor: must be one of {}, got \"{}\"",
             fmt::join(names, ", "), name);
  return static_cast<CompressorKind>(found - names.begin());
}

std::string_view name_of(CompressorKind kind) {
  return compressor_kinds()[static_cast<size_t>(kind)];
}

BlockCompressor::BlockCompressor(const BlockCompressorOptions& options, Generator& generator)
    : Layer("BlockCompressor"), options_(resolve(options)) {
  const int64_t block = options_.blocks.block, heads = options_.heads, dim = options_.dim;
  const int64_t rows = options_.weights_per_head ? heads : 1;
  if (options_.positions && options_.kind != CompressorKind::mean) {
    positions_ = register_parameter(
        "positions", nn::init::normal(empty({heads, block, dim}), generator, 0, options_.init_std));
  }
  const auto product = [&](const char* name, int64_t in, int64_t out, bool bias) {
    return &register_module<nn::Linear>(
        name, in, out, generator, nn::LinearOptions{.bias = bias, .init_std = options_.init_std});
  };
  switch (options_.kind) {
    case CompressorKind::mean:
      break;
    case CompressorKind::weighted:
      weights_ = register_parameter("weights", full({rows, block}, 1 / static_cast<double>(block)));
      break;
    case CompressorKind::linear:
      proj_ = product("proj", block * dim, rows * dim, false);
      break;
    case CompressorKind::mlp:
      up_ = product("up", block * dim, rows * options_.hidden, true);
      down_ = product("down", options_.hidden, rows * dim, true);
      if (options_.residual) down_->weight.mutable_data().zero_();
      break;
  }
}

Variable BlockCompressor::forward(const Variable& x) {
  WEFT_CHECK(
      x.defined() && x.rank() == 4 && x.size(2) == options_.heads && x.size(3) == options_.dim,
      ShapeError, "compressor: x must be [B, T, {}, {}], got {}", options_.heads, options_.dim,
      x.defined() ? x.data() : Tensor());
  if (proj_ == nullptr && up_ == nullptr)
    return block_pool(x, options_.blocks, weights_, positions_);
  const Variable z = block_unfold(x, options_.blocks, positions_);  // [B, Nc, H, l D]
  std::vector<Variable> rows =
      options_.weights_per_head ? autograd::split(z, 1, 2) : std::vector<Variable>{z};
  if (proj_ != nullptr) {
    rows = linear_rows(*proj_, rows);
  } else {
    rows = linear_rows(*up_, rows);
    for (Variable& row : rows) row = autograd::silu(row);
    rows = linear_rows(*down_, rows);
  }
  const Variable y = rows.size() == 1 ? rows.front() : autograd::cat(rows, 2);
  return options_.residual ? y + block_pool(x, options_.blocks, {}, {}) : y;
}

double BlockCompressor::block_flops() const {
  const auto block = static_cast<double>(options_.blocks.block);
  const auto heads = static_cast<double>(options_.heads), dim = static_cast<double>(options_.dim);
  const auto hidden = static_cast<double>(options_.hidden);
  switch (options_.kind) {
    case CompressorKind::mean:
      return heads * block * dim;
    case CompressorKind::weighted:
      return 2 * heads * block * dim;
    case CompressorKind::linear:
      return 2 * heads * block * dim * dim;
    case CompressorKind::mlp:
      break;
  }
  return 2 * heads * (block * dim * hidden + hidden * dim) +
         (options_.residual ? heads * block * dim : 0);
}

std::string BlockCompressor::describe() const {
  std::string text =
      fmt::format("{}, block={}, stride={}, heads={}, dim={}", name_of(options_.kind),
                  options_.blocks.block, options_.blocks.stride, options_.heads, options_.dim);
  if (options_.kind == CompressorKind::mlp) {
    text += fmt::format(", hidden={}{}", options_.hidden, options_.residual ? ", residual" : "");
  }
  return text;
}

}  // namespace weft::attention
