#pragma once

#include <span>

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::optim {

/// Writes the square root of the sum of the squares of all elements, taken in one pass in f64, to
/// `norm`, f64 of rank 0. The tensors are dense, of any floating types, on one device. The bits do
/// not depend on the number of threads.
void grad_norm_cpu(std::span<const Tensor> tensors, Tensor& norm, Stream stream);
void grad_norm_cuda(std::span<const Tensor> tensors, Tensor& norm, Stream stream);

/// What clip_scale_tensor() computes. All tensors are of rank 0, `scale` of f64, the others of f32
/// or f64; `unscale` may be undefined.
void clip_scale_cpu(const Tensor& norm, const Tensor& unscale, double max_norm, Tensor& scale,
                    Stream stream);
void clip_scale_cuda(const Tensor& norm, const Tensor& unscale, double max_norm, Tensor& scale,
                     Stream stream);

/// Multiplies all elements by `factor`. Tensors as above.
void scale_cpu(std::span<Tensor> tensors, double factor, Stream stream);
void scale_cuda(std::span<Tensor> tensors, double factor, Stream stream);

/// Row-major position of the first infinity or NaN of a dense tensor, -1 where there is none.
int64_t find_non_finite_cpu(const Tensor& tensor, Stream stream);
int64_t find_non_finite_cuda(const Tensor& tensor, Stream stream);

}  // namespace weft::optim
