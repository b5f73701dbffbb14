#include "ops/layer_norm_kernels.h"
#include "ops/norm_backward_cuda.cuh"
#include "ops/norm_cuda.cuh"

namespace weft {

using namespace cuda;

void layer_norm_forward_cuda(LayerNormForwardParams& params, Stream stream) {
  const Tensor& x = params.x;
  dispatch_floating(x.dtype(), "layer_norm", [&]<class T>() {
    using A = accumulator_t<T>;
    const NormForward<T> p{.x = x.data<T>(),
                           .x_stride = x.strides()[0],
                           .residual = nullptr,
                           .residual_stride = 0,
                           .sum = nullptr,
                           .y = params.y.data<T>(),
                           .gain = params.gain.data<A>(),
                           .bias = params.bias.defined() ? params.bias.data<A>() : nullptr,
                           .mean = params.mean.data<A>(),
                           .scale = params.rstd.data<A>(),
                           .rows = x.size(0),
                           .length = x.size(1),
                           .eps = static_cast<A>(params.eps)};
    const bool aligned =
        rows_are_aligned(x, params.y) && is_aligned(p.gain, 0) && is_aligned(p.bias, 0);
    dispatch_row_shape<T, 2>(p.length, aligned, [&]<class Shape>() {
      launch("layer_norm", stream, {Shape::blocks(p.rows), Shape::kBlockThreads},
             norm_forward<T, /*kCentred=*/true, Shape>, p);
    });
  });
}

void layer_norm_backward_cuda(LayerNormBackwardParams& params, Stream stream) {
  const Tensor& x = params.x;
  dispatch_floating(x.dtype(), "layer_norm_backward", [&]<class T>() {
    using A = accumulator_t<T>;
    const NormBackward<T> p{.dy = params.dy.data<T>(),
                            .dy_stride = params.dy.strides()[0],
                            .x = x.data<T>(),
                            .x_stride = x.strides()[0],
                            .added = nullptr,
                            .added_stride = 0,
                            .dx = params.dx.data<T>(),
                            .gain = params.gain.data<A>(),
                            .mean = params.mean.data<A>(),
                            .scale = params.rstd.data<A>(),
                            .partials = nullptr,
                            .rows = x.size(0),
                            .length = x.size(1)};
    const bool aligned = rows_are_aligned(x, params.dy, params.dx) && is_aligned(p.gain, 0);
    run_norm_backward<T, /*kCentred=*/true>(
        p, aligned, params.dgain_dbias.defined() ? params.dgain_dbias.data<A>() : nullptr,
        "layer_norm_backward", stream);
  });
}

}  // namespace weft
