#include "ops/norm_backward_cuda.cuh"
#include "ops/norm_cuda.cuh"
#include "ops/rms_norm_kernels.h"

namespace weft {

using namespace cuda;

void rms_norm_forward_cuda(RmsNormForwardParams& params, Stream stream) {
  const Tensor& x = params.x;
  const bool has_residual = params.residual.defined();
  dispatch_floating(x.dtype(), "rms_norm", [&]<class T>() {
    using A = accumulator_t<T>;
    const NormForward<T> p{.x = x.data<T>(),
                           .x_stride = x.strides()[0],
                           .residual = has_residual ? params.residual.data<T>() : nullptr,
                           .residual_stride = has_residual ? params.residual.strides()[0] : 0,
                           .sum = has_residual ? params.sum.data<T>() : nullptr,
                           .y = params.y.data<T>(),
                           .gain = params.gain.data<A>(),
                           .bias = nullptr,
                           .mean = nullptr,
                           .scale = params.inverse_rms.data<A>(),
                           .rows = x.size(0),
                           .length = x.size(1),
                           .eps = static_cast<A>(params.eps)};
    const bool aligned =
        rows_are_aligned(x, params.residual, params.sum, params.y) && is_aligned(p.gain, 0);
    dispatch_row_shape<T, 2>(p.length, aligned, [&]<class Shape>() {
      launch("rms_norm", stream, {Shape::blocks(p.rows), Shape::kBlockThreads},
             norm_forward<T, /*kCentred=*/false, Shape>, p);
    });
  });
}

void rms_norm_backward_cuda(RmsNormBackwardParams& params, Stream stream) {
  const Tensor& x = params.x;
  const bool has_sum = params.dsum.defined();
  dispatch_floating(x.dtype(), "rms_norm_backward", [&]<class T>() {
    using A = accumulator_t<T>;
    const NormBackward<T> p{.dy = params.dy.data<T>(),
                            .dy_stride = params.dy.strides()[0],
                            .x = x.data<T>(),
                            .x_stride = x.strides()[0],
                            .added = has_sum ? params.dsum.data<T>() : nullptr,
                            .added_stride = has_sum ? params.dsum.strides()[0] : 0,
                            .dx = params.dx.data<T>(),
                            .gain = params.gain.data<A>(),
                            .mean = nullptr,
                            .scale = params.inverse_rms.data<A>(),
                            .partials = nullptr,
                            .rows = x.size(0),
                            .length = x.size(1)};
    const bool aligned =
        rows_are_aligned(x, params.dy, params.dsum, params.dx) && is_aligned(p.gain, 0);
    run_norm_backward<T, /*kCentred=*/false>(
        p, aligned, params.dgain.defined() ? params.dgain.data<A>() : nullptr, "rms_norm_backward",
        stream);
  });
}

}  // namespace weft
