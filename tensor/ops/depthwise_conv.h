#pragma once

#include "ops/conv_kernels.h"

namespace weft {

// Convolutions with one filter a channel, as conv2d_forward_cpu() and its gradients.
void depthwise_forward_cpu(const Tensor& x, const Tensor& weight, Tensor& y, const ConvGeometry& g);
void depthwise_backward_input_cpu(const Tensor& dy, const Tensor& weight, Tensor& dx,
                                  const ConvGeometry& g);
void depthwise_backward_weight_cpu(const Tensor& dy, const Tensor& x, Tensor& dweight,
                                   const ConvGeometry& g);

}  // namespace weft
