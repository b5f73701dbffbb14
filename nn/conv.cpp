#include "weft/nn/conv.h"

#include <cmath>

#include "weft/autograd/functions/conv.h"
#include "weft/nn/init.h"
#include "weft/tensor/check.h"

namespace weft::nn {
namespace {

void check_channels(const char* layer, int64_t in_channels, int64_t out_channels, int64_t groups) {
  WEFT_CHECK(in_channels >= 1 && out_channels >= 1, ConfigError,
             "{}: channels must be at least 1, got {} -> {}", layer, in_channels, out_channels);
  WEFT_CHECK(groups >= 1 && in_channels % groups == 0 && out_channels % groups == 0, ConfigError,
             "{}: groups must divide the channels {} -> {}, got {}", layer, in_channels,
             out_channels, groups);
}

void check_axis(const char* layer, int64_t kernel, int64_t stride, int64_t padding,
                int64_t dilation) {
  WEFT_CHECK(kernel >= 1 && stride >= 1 && dilation >= 1, ConfigError,
             "{}: kernel, stride and dilation must be at least 1, got {}, {} and {}", layer, kernel,
             stride, dilation);
  WEFT_CHECK(padding >= 0, ConfigError, "{}: padding must not be negative, got {}", layer, padding);
}

Tensor initial_weight(const Shape& shape, bool kaiming, Generator& generator) {
  Tensor weight = empty(shape);
  if (kaiming) return init::kaiming_normal(weight, generator);
  const double bound = 1.0 / std::sqrt(static_cast<double>(init::fans(weight).in));
  return init::uniform(weight, generator, -bound, bound);
}

Tensor initial_bias(const Tensor& weight, bool kaiming, Generator& generator) {
  Tensor bias = zeros({weight.size(0)});
  if (kaiming) return bias;
  const double bound = 1.0 / std::sqrt(static_cast<double>(init::fans(weight).in));
  return init::uniform(bias, generator, -bound, bound);
}

std::string by(const std::array<int64_t, 2>& pair) {
  return fmt::format("{}x{}", pair[0], pair[1]);
}

}  // namespace

Conv2d::Conv2d(int64_t in_channels, int64_t out_channels, Generator& generator,
               const Conv2dLayerOptions& options)
    : Layer("Conv2d"),
      options_{.stride = options.stride,
               .padding = options.padding,
               .dilation = options.dilation,
               .groups = options.groups} {
  check_channels("Conv2d", in_channels, out_channels, options.groups);
  for (size_t i = 0; i < 2; ++i)
    check_axis("Conv2d", options.kernel[i], options.stride[i], options.padding[i],
               options.dilation[i]);
  weight = register_parameter("weight", initial_weight({out_channels, in_channels / options.groups,
                                                        options.kernel[0], options.kernel[1]},
                                                       options.kaiming_init, generator));
  if (options.bias)
    bias = register_parameter("bias", initial_bias(weight.data(), options.kaiming_init, generator));
}

Variable Conv2d::forward(const Variable& x) {
  return autograd::conv2d(x, weight, bias, options_);
}

std::string Conv2d::describe() const {
  return fmt::format(
      "in={}, out={}, kernel={}x{}, stride={}, padding={}, dilation={}, groups={}, bias={}",
      weight.size(1) * options_.groups, weight.size(0), weight.size(2), weight.size(3),
      by(options_.stride), by(options_.padding), by(options_.dilation), options_.groups,
      bias.defined());
}

Conv1d::Conv1d(int64_t in_channels, int64_t out_channels, Generator& generator,
               const Conv1dLayerOptions& options)
    : Layer("Conv1d"),
      options_{.stride = options.stride,
               .padding = options.padding,
               .dilation = options.dilation,
               .groups = options.groups} {
  check_channels("Conv1d", in_channels, out_channels, options.groups);
  check_axis("Conv1d", options.kernel, options.stride, options.padding, options.dilation);
  weight = register_parameter(
      "weight", initial_weight({out_channels, in_channels / options.groups, options.kernel},
                               options.kaiming_init, generator));
  if (options.bias)
    bias = register_parameter("bias", initial_bias(weight.data(), options.kaiming_init, generator));
}

Variable Conv1d::forward(const Variable& x) {
  return autograd::conv1d(x, weight, bias, options_);
}

std::string Conv1d::describe() const {
  return fmt::format(
      "in={}, out={}, kernel={}, stride={}, padding={}, dilation={}, groups={}, bias={}",
      weight.size(1) * options_.groups, weight.size(0), weight.size(2), options_.stride,
      options_.padding, options_.dilation, options_.groups, bias.defined());
}

}  // namespace weft::nn
