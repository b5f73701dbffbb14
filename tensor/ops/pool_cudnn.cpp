#include "ops/pool_cudnn.h"

#include <memory>
#include <string>

#include "cuda/cudnn_choice.h"
#include "cuda/cudnn_layers.h"

namespace weft::cuda {
namespace {

using cudnn::Factors;
using cudnn::TensorDescriptor;

struct PoolingDescriptorDeleter {
  void operator()(cudnnPoolingStruct* it) const { cudnnDestroyPoolingDescriptor(it); }
};
using PoolingDescriptor = std::unique_ptr<cudnnPoolingStruct, PoolingDescriptorDeleter>;

/// Both divide by the whole kernel or by the elements in it, as ours: since sizes are rounded down,
/// no window reaches past the padding.
cudnnPoolingMode_t mean_mode(const PoolGeometry& geometry) {
  return geometry.options.count_padding ? CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING
                                        : CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING;
}

PoolingDescriptor describe_pooling(const PoolGeometry& geometry) {
  cudnnPoolingDescriptor_t raw = nullptr;
  WEFT_CUDNN_CHECK(cudnnCreatePoolingDescriptor(&raw));
  PoolingDescriptor descriptor(raw);
  const Pool2dOptions& o = geometry.options;
  WEFT_CUDNN_CHECK(cudnnSetPooling2dDescriptor(
      raw, mean_mode(geometry), CUDNN_PROPAGATE_NAN, static_cast<int>(o.kernel[0]),
      static_cast<int>(o.kernel[1]), static_cast<int>(o.padding[0]), static_cast<int>(o.padding[1]),
      static_cast<int>(o.stride[0]), static_cast<int>(o.stride[1])));
  return descriptor;
}

TensorDescriptor describe_planes(const Tensor& tensor) {
  return cudnn::describe_tensor(tensor.dtype(), tensor.size(0), tensor.size(1), tensor.size(2),
                                tensor.size(3));
}

/// Runs body(handle, pooling, x descriptor, y descriptor, factors), which calls the library.
template <class Body>
bool pool(const char* op, const Tensor& x, const Tensor& y, const PoolGeometry& geometry,
          Stream stream, Body&& body) {
  return cudnn::run_by_cudnn(op, x.dtype(), stream.device(), [&]() -> std::string {
    if (!cudnn::fit_int({x.numel(), y.numel()})) return "sizes beyond 2^31";
    const cudnn::Handle handle(stream);
    const PoolingDescriptor pooling = describe_pooling(geometry);
    const TensorDescriptor x_descriptor = describe_planes(x), y_descriptor = describe_planes(y);
    const Factors factors(x.dtype(), 1, 0);
    return cudnn::refusal(
        body(handle, pooling.get(), x_descriptor.get(), y_descriptor.get(), factors),
        "the pooling");
  });
}

}  // namespace

bool avg_pool2d_cudnn(const Tensor& x, Tensor& y, const PoolGeometry& geometry, Stream stream) {
  return pool("avg_pool2d", x, y, geometry, stream,
              [&](cudnnHandle_t handle, cudnnPoolingDescriptor_t pooling,
                  cudnnTensorDescriptor_t x_descriptor, cudnnTensorDescriptor_t y_descriptor,
                  const Factors& factors) {
                return cudnnPoolingForward(handle, pooling, factors.alpha(), x_descriptor,
                                           x.raw_data(), factors.beta(), y_descriptor,
                                           y.raw_data());
              });
}

bool avg_pool2d_backward_cudnn(const Tensor& dy, Tensor& dx, const PoolGeometry& geometry,
                               Stream stream) {
  return pool("avg_pool2d_backward", dx, dy, geometry, stream,
              [&](cudnnHandle_t handle, cudnnPoolingDescriptor_t pooling,
                  cudnnTensorDescriptor_t x_descriptor, cudnnTensorDescriptor_t y_descriptor,
                  const Factors& factors) {
                // The gradient of means needs neither x nor y; dx and dy stand in for them.
                return cudnnPoolingBackward(handle, pooling, factors.alpha(), y_descriptor,
                                            dy.raw_data(), y_descriptor, dy.raw_data(),
                                            x_descriptor, dx.raw_data(), factors.beta(),
                                            x_descriptor, dx.raw_data());
              });
}

}  // namespace weft::cuda
