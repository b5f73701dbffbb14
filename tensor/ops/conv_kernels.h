#pragma once

#include "weft/tensor/ops/conv.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// All sizes of a convolution. Tensors of the launchers are dense: x [N, C, H, W], weight [O, C /
/// groups, kh, kw], y [N, O, out_height, out_width]. No size is zero.
struct ConvGeometry {
  int64_t batch = 0, channels = 0, height = 0, width = 0;
  int64_t out_channels = 0, out_height = 0, out_width = 0;
  int64_t kernel_height = 0, kernel_width = 0;
  Conv2dOptions options;

  int64_t group_channels() const { return channels / options.groups; }
  int64_t group_out_channels() const { return out_channels / options.groups; }
  int64_t taps() const { return group_channels() * kernel_height * kernel_width; }
  int64_t out_size() const { return out_height * out_width; }
  /// One filter a channel.
  bool is_depthwise() const { return group_channels() == 1 && options.groups == out_channels; }
};

/// y holds the bias already (or zeros), and the convolution is added to it. All of one type.
void conv2d_forward_cpu(const Tensor& x, const Tensor& weight, Tensor& y,
                        const ConvGeometry& geometry, Stream stream);
void conv2d_backward_input_cpu(const Tensor& dy, const Tensor& weight, Tensor& dx,
                               const ConvGeometry& geometry, Stream stream);
/// dweight is f32 (f64 for f64) and zero at the start.
void conv2d_backward_weight_cpu(const Tensor& dy, const Tensor& x, Tensor& dweight,
                                const ConvGeometry& geometry, Stream stream);

// On the GPU.
void conv2d_forward_cuda(const Tensor& x, const Tensor& weight, Tensor& y,
                         const ConvGeometry& geometry, Stream stream);
void conv2d_backward_input_cuda(const Tensor& dy, const Tensor& weight, Tensor& dx,
                                const ConvGeometry& geometry, Stream stream);
void conv2d_backward_weight_cuda(const Tensor& dy, const Tensor& x, Tensor& dweight,
                                 const ConvGeometry& geometry, Stream stream);

}  // namespace weft
