#pragma once

#include <span>

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::optim {

/// Sum of the squares of all elements in one pass, in f64. The tensors are dense, of any floating
/// types, on one device. The bits do not depend on the number of threads.
double sum_of_squares_cpu(std::span<const Tensor> tensors, Stream stream);
double sum_of_squares_cuda(std::span<const Tensor> tensors, Stream stream);

/// Multiplies all elements by `factor`. Tensors as above.
void scale_cpu(std::span<Tensor> tensors, double factor, Stream stream);
void scale_cuda(std::span<Tensor> tensors, double factor, Stream stream);

/// Row-major position of the first infinity or NaN of a dense tensor, -1 where there is none.
int64_t find_non_finite_cpu(const Tensor& tensor, Stream stream);
int64_t find_non_finite_cuda(const Tensor& tensor, Stream stream);

}  // namespace weft::optim
