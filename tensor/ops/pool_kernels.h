#pragma once

#include "weft/tensor/ops/pool.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// Sizes of a pooling. Tensors of the launchers are dense: x [planes, height, width], y [planes,
/// out_height, out_width].
struct PoolGeometry {
  int64_t planes = 0, height = 0, width = 0;
  int64_t out_height = 0, out_width = 0;
  Pool2dOptions options;  // with the stride filled in
};

/// Without positions where `indices` is undefined.
void max_pool2d_cpu(const Tensor& x, Tensor& y, Tensor& indices, const PoolGeometry& geometry,
                    Stream stream);
/// Throws IndexError.
void max_pool2d_backward_cpu(const Tensor& dy, const Tensor& indices, Tensor& dx, Stream stream);
void avg_pool2d_cpu(const Tensor& x, Tensor& y, const PoolGeometry& geometry, Stream stream);
void avg_pool2d_backward_cpu(const Tensor& dy, Tensor& dx, const PoolGeometry& geometry,
                             Stream stream);

// On the GPU.
void max_pool2d_cuda(const Tensor& x, Tensor& y, Tensor& indices, const PoolGeometry& geometry,
                     Stream stream);
void max_pool2d_backward_cuda(const Tensor& dy, const Tensor& indices, Tensor& dx, Stream stream);
void avg_pool2d_cuda(const Tensor& x, Tensor& y, const PoolGeometry& geometry, Stream stream);
void avg_pool2d_backward_cuda(const Tensor& dy, Tensor& dx, const PoolGeometry& geometry,
                              Stream stream);

}  // namespace weft
