#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

#include "ops/pool_kernels.h"

namespace weft::cuda {

// Pooling by means, by cuDNN. The contracts of the launchers in pool_kernels.h; each returns false,
// with nothing done, where the library does not do it.
//
// Maxima stay with Weft's kernels. cuDNN gives the lowest finite number for a window of -inf alone,
// and not the positions of maxima. Their gradient it finds from x and y, and does not say which of
// several equal elements it takes, nor, unless asked for its slower mode, always the same; ours is
// the first.

bool avg_pool2d_cudnn(const Tensor& x, Tensor& y, const PoolGeometry& geometry, Stream stream);
bool avg_pool2d_backward_cudnn(const Tensor& dy, Tensor& dx, const PoolGeometry& geometry,
                               Stream stream);

}  // namespace weft::cuda
