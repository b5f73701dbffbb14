#pragma once

#include <array>

#include "weft/nn/module.h"
#include "weft/tensor/ops/conv.h"

namespace weft::nn {

/// Each entry of a pair is that of height, then width.
struct Conv2dLayerOptions {
  std::array<int64_t, 2> kernel = {3, 3};
  std::array<int64_t, 2> stride = {1, 1};
  std::array<int64_t, 2> padding = {0, 0};  ///< zeros added on both sides
  std::array<int64_t, 2> dilation = {1, 1};
  int64_t groups = 1;  ///< divides both channel counts; in_channels gives a depthwise convolution
  bool bias = true;
  /// N(0, 2 / fan_in) weights and biases of 0, for ReLU networks (He et al., 2015); otherwise
  /// U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the usual default, where fan_in = in / groups * kernel.
  bool kaiming_init = false;
};

/// Convolution of x [N, in, H, W] to [N, out, H', W'], where H' = floor((H + 2 padding - dilation
/// (kernel - 1) - 1) / stride) + 1 and likewise W'. Parameters `weight` [out, in / groups, kh, kw]
/// and, with bias, `bias` [out]. Throws ConfigError on bad sizes and options.
class Conv2d final : public Layer {
 public:
  Conv2d(int64_t in_channels, int64_t out_channels, Generator& generator,
         const Conv2dLayerOptions& options = {});

  Variable forward(const Variable& x) override;
  std::string describe() const override;

  Variable weight;
  Variable bias;  ///< undefined without bias

 private:
  Conv2dOptions options_;
};

/// As Conv2dLayerOptions, over one axis.
struct Conv1dLayerOptions {
  int64_t kernel = 3;
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t dilation = 1;
  int64_t groups = 1;
  bool bias = true;
  bool kaiming_init = false;
};

/// Convolution of x [N, in, L] to [N, out, L'], where L' is computed as H' of Conv2d. Parameters
/// `weight` [out, in / groups, k] and, with bias, `bias` [out]. Throws ConfigError on bad sizes and
/// options.
class Conv1d final : public Layer {
 public:
  Conv1d(int64_t in_channels, int64_t out_channels, Generator& generator,
         const Conv1dLayerOptions& options = {});

  Variable forward(const Variable& x) override;
  std::string describe() const override;

  Variable weight;
  Variable bias;  ///< undefined without bias

 private:
  Conv1dOptions options_;
};

}  // namespace weft::nn
