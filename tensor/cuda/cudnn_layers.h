#pragma once

// Pieces shared by the layers that cuDNN computes through its functions of one layer each
// (convolution, pooling, batch normalisation). For sources of the CUDA backend only.
#include <initializer_list>
#include <limits>
#include <memory>

#include <cudnn.h>

#include "weft/tensor/dtype.h"

#include "cuda/cudnn_graph.h"
#include "cuda/cudnn_handle.h"

namespace weft::cudnn {

struct TensorDescriptorDeleter {
  void operator()(cudnnTensorStruct* it) const { cudnnDestroyTensorDescriptor(it); }
};
using TensorDescriptor = std::unique_ptr<cudnnTensorStruct, TensorDescriptorDeleter>;

inline TensorDescriptor make_tensor_descriptor() {
  cudnnTensorDescriptor_t raw = nullptr;
  WEFT_CUDNN_CHECK(cudnnCreateTensorDescriptor(&raw));
  return TensorDescriptor(raw);
}

/// A dense tensor [images, channels, height, width].
inline TensorDescriptor describe_tensor(DType dtype, int64_t images, int64_t channels,
                                        int64_t height, int64_t width) {
  TensorDescriptor descriptor = make_tensor_descriptor();
  WEFT_CUDNN_CHECK(cudnnSetTensor4dDescriptor(descriptor.get(), CUDNN_TENSOR_NCHW, data_type(dtype),
                                              static_cast<int>(images), static_cast<int>(channels),
                                              static_cast<int>(height), static_cast<int>(width)));
  return descriptor;
}

/// Whether all are sizes that the library, which counts in int, can take.
inline bool fit_int(std::initializer_list<int64_t> sizes) {
  for (const int64_t size : sizes)
    if (size > std::numeric_limits<int>::max()) return false;
  return true;
}

/// The factors alpha and beta of result = alpha op + beta result: floats, doubles for f64.
struct Factors {
  double wide[2];
  float narrow[2];
  bool is_double;

  Factors(DType dtype, double alpha, double beta)
      : wide{alpha, beta},
        narrow{static_cast<float>(alpha), static_cast<float>(beta)},
        is_double(dtype == DType::f64) {}
  const void* alpha() const { return is_double ? static_cast<const void*>(&wide[0]) : &narrow[0]; }
  const void* beta() const { return is_double ? static_cast<const void*>(&wide[1]) : &narrow[1]; }
};

}  // namespace weft::cudnn
