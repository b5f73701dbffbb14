#include "weft/nn/pool.h"

#include "weft/autograd/functions/pool.h"
#include "weft/tensor/check.h"

namespace weft::nn {
namespace {

/// The stride in place of its default.
int64_t checked_stride(const char* layer, int64_t kernel, int64_t stride, int64_t padding) {
  WEFT_CHECK(kernel >= 1, ConfigError, "{}: kernel must be at least 1, got {}", layer, kernel);
  WEFT_CHECK(stride >= 0, ConfigError, "{}: stride must not be negative, got {}", layer, stride);
  WEFT_CHECK(padding >= 0 && padding <= kernel / 2, ConfigError,
             "{}: padding must be 0 to half the kernel of {}, got {}", layer, kernel, padding);
  return stride == 0 ? kernel : stride;
}

Pool2dOptions checked(const char* layer, Pool2dOptions options) {
  for (size_t i = 0; i < 2; ++i)
    options.stride[i] =
        checked_stride(layer, options.kernel[i], options.stride[i], options.padding[i]);
  return options;
}

Pool1dOptions checked(const char* layer, Pool1dOptions options) {
  options.stride = checked_stride(layer, options.kernel, options.stride, options.padding);
  return options;
}

std::string describe_window(const Pool2dOptions& options) {
  return fmt::format("kernel={}x{}, stride={}x{}, padding={}x{}", options.kernel[0],
                     options.kernel[1], options.stride[0], options.stride[1], options.padding[0],
                     options.padding[1]);
}

std::string describe_window(const Pool1dOptions& options) {
  return fmt::format("kernel={}, stride={}, padding={}", options.kernel, options.stride,
                     options.padding);
}

}  // namespace

MaxPool2d::MaxPool2d(const Pool2dOptions& options)
    : Layer("MaxPool2d"), options_(checked("MaxPool2d", options)) {}

Variable MaxPool2d::forward(const Variable& x) {
  return autograd::max_pool2d(x, options_);
}

std::string MaxPool2d::describe() const {
  return describe_window(options_);
}

AvgPool2d::AvgPool2d(const Pool2dOptions& options)
    : Layer("AvgPool2d"), options_(checked("AvgPool2d", options)) {}

Variable AvgPool2d::forward(const Variable& x) {
  return autograd::avg_pool2d(x, options_);
}

std::string AvgPool2d::describe() const {
  return fmt::format("{}, count_padding={}", describe_window(options_), options_.count_padding);
}

MaxPool1d::MaxPool1d(const Pool1dOptions& options)
    : Layer("MaxPool1d"), options_(checked("MaxPool1d", options)) {}

Variable MaxPool1d::forward(const Variable& x) {
  return autograd::max_pool1d(x, options_);
}

std::string MaxPool1d::describe() const {
  return describe_window(options_);
}

AvgPool1d::AvgPool1d(const Pool1dOptions& options)
    : Layer("AvgPool1d"), options_(checked("AvgPool1d", options)) {}

Variable AvgPool1d::forward(const Variable& x) {
  return autograd::avg_pool1d(x, options_);
}

std::string AvgPool1d::describe() const {
  return fmt::format("{}, count_padding={}", describe_window(options_), options_.count_padding);
}

}  // namespace weft::nn
