#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// Launchers behind Tensor::copy_ and Tensor::fill_. `source` has the shape of `destination`; types
/// may differ.
void copy_cpu(const Tensor& source, Tensor& destination, Stream stream);
void copy_cuda(const Tensor& source, Tensor& destination, Stream stream);
void fill_cpu(Tensor& destination, double value, Stream stream);
void fill_cuda(Tensor& destination, double value, Stream stream);

/// start, start + step, ... into a dense tensor of i64.
void arange_cuda(Tensor& destination, int64_t start, int64_t step, Stream stream);

}  // namespace weft
