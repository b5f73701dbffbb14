#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

#include "ops/conv_kernels.h"

namespace weft::cuda {

// Convolutions by cuDNN, with algorithms that repeat to the bit. The contracts of the launchers in
// conv_kernels.h; each returns false, with nothing done, where the library has no such algorithm.

bool conv2d_forward_cudnn(const Tensor& x, const Tensor& weight, Tensor& y,
                          const ConvGeometry& geometry, Stream stream);
bool conv2d_backward_input_cudnn(const Tensor& dy, const Tensor& weight, Tensor& dx,
                                 const ConvGeometry& geometry, Stream stream);
/// dy and x have the type of dweight.
bool conv2d_backward_weight_cudnn(const Tensor& dy, const Tensor& x, Tensor& dweight,
                                  const ConvGeometry& geometry, Stream stream);

}  // namespace weft::cuda
