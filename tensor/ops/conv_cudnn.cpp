#include "ops/conv_cudnn.h"

#include <array>
#include <limits>
#include <memory>

#include <cudnn.h>

#include "weft/tensor/check.h"

#include "cuda/cudnn_graph.h"
#include "cuda/cudnn_handle.h"

namespace weft::cuda {
namespace {

struct DescriptorDeleter {
  void operator()(cudnnTensorStruct* it) const { cudnnDestroyTensorDescriptor(it); }
  void operator()(cudnnFilterStruct* it) const { cudnnDestroyFilterDescriptor(it); }
  void operator()(cudnnConvolutionStruct* it) const { cudnnDestroyConvolutionDescriptor(it); }
};
using TensorDescriptor = std::unique_ptr<cudnnTensorStruct, DescriptorDeleter>;
using FilterDescriptor = std::unique_ptr<cudnnFilterStruct, DescriptorDeleter>;
using ConvDescriptor = std::unique_ptr<cudnnConvolutionStruct, DescriptorDeleter>;

/// The library counts in int.
bool fits(const ConvGeometry& g) {
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  const auto& o = g.options;
  for (const int64_t size : {g.batch * g.channels * g.height * g.width, g.out_channels * g.taps(),
                             g.batch * g.out_channels * g.out_size(), o.padding[0], o.padding[1],
                             o.stride[0], o.stride[1], o.dilation[0], o.dilation[1]}) {
    if (size > kMost) return false;
  }
  return true;
}

TensorDescriptor describe_tensor(DType dtype, int64_t images, int64_t channels, int64_t height,
                                 int64_t width) {
  cudnnTensorDescriptor_t raw = nullptr;
  WEFT_CUDNN_CHECK(cudnnCreateTensorDescriptor(&raw));
  TensorDescriptor descriptor(raw);
  WEFT_CUDNN_CHECK(cudnnSetTensor4dDescriptor(raw, CUDNN_TENSOR_NCHW, cudnn::data_type(dtype),
                                              static_cast<int>(images), static_cast<int>(channels),
                                              static_cast<int>(height), static_cast<int>(width)));
  return descriptor;
}

/// The descriptors of a convolution whose tensors have type `dtype`.
struct Description {
  TensorDescriptor x, y;
  FilterDescriptor weight;
  ConvDescriptor conv;

  Description(const ConvGeometry& g, DType dtype)
      : x(describe_tensor(dtype, g.batch, g.channels, g.height, g.width)),
        y(describe_tensor(dtype, g.batch, g.out_channels, g.out_height, g.out_width)) {
    cudnnFilterDescriptor_t raw_filter = nullptr;
    WEFT_CUDNN_CHECK(cudnnCreateFilterDescriptor(&raw_filter));
    weight.reset(raw_filter);
    WEFT_CUDNN_CHECK(cudnnSetFilter4dDescriptor(
        raw_filter, cudnn::data_type(dtype), CUDNN_TENSOR_NCHW, static_cast<int>(g.out_channels),
        static_cast<int>(g.group_channels()), static_cast<int>(g.kernel_height),
        static_cast<int>(g.kernel_width)));
    cudnnConvolutionDescriptor_t raw_conv = nullptr;
    WEFT_CUDNN_CHECK(cudnnCreateConvolutionDescriptor(&raw_conv));
    conv.reset(raw_conv);
    const auto& o = g.options;
    WEFT_CUDNN_CHECK(cudnnSetConvolution2dDescriptor(
        raw_conv, static_cast<int>(o.padding[0]), static_cast<int>(o.padding[1]),
        static_cast<int>(o.stride[0]), static_cast<int>(o.stride[1]),
        static_cast<int>(o.dilation[0]), static_cast<int>(o.dilation[1]), CUDNN_CROSS_CORRELATION,
        dtype == DType::f64 ? CUDNN_DATA_DOUBLE : CUDNN_DATA_FLOAT));
    WEFT_CUDNN_CHECK(cudnnSetConvolutionGroupCount(raw_conv, static_cast<int>(o.groups)));
    // Sums of f32 keep all their digits (no TF32); half types go to the tensor cores.
    const bool is_half = dtype == DType::bf16 || dtype == DType::f16;
    WEFT_CUDNN_CHECK(
        cudnnSetConvolutionMathType(raw_conv, is_half ? CUDNN_TENSOR_OP_MATH : CUDNN_FMA_MATH));
  }
};

/// The factors of cudnnConvolution*: floats, doubles for f64.
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

constexpr size_t kMostWorkspace = size_t{256} << 20;
constexpr int kMostAlgorithms = 16;

/// The first of the library's suggestions, which it sorts by expected speed, that repeats to the
/// bit and needs little memory; null when there is none.
template <class Performance>
const Performance* choose(const std::array<Performance, kMostAlgorithms>& suggestions, int count) {
  for (int i = 0; i < count; ++i) {
    const Performance& it = suggestions[static_cast<size_t>(i)];
    if (it.status == CUDNN_STATUS_SUCCESS && it.determinism == CUDNN_DETERMINISTIC &&
        it.memory <= kMostWorkspace)
      return &it;
  }
  return nullptr;
}

Tensor workspace_of(size_t bytes, Device device) {
  return empty({static_cast<int64_t>(bytes)}, DType::u8, device);
}

}  // namespace

bool conv2d_forward_cudnn(const Tensor& x, const Tensor& weight, Tensor& y,
                          const ConvGeometry& geometry, Stream stream) {
  if (!fits(geometry)) return false;
  const cudnn::Handle handle(stream);
  const Description d(geometry, x.dtype());
  std::array<cudnnConvolutionFwdAlgoPerf_t, kMostAlgorithms> suggestions;
  int count = 0;
  if (cudnnGetConvolutionForwardAlgorithm_v7(handle, d.x.get(), d.weight.get(), d.conv.get(),
                                             d.y.get(), kMostAlgorithms, &count,
                                             suggestions.data()) != CUDNN_STATUS_SUCCESS)
    return false;
  const auto* const chosen = choose(suggestions, count);
  if (chosen == nullptr) return false;
  WEFT_CUDNN_CHECK(cudnnSetConvolutionMathType(d.conv.get(), chosen->mathType));
  const Tensor workspace = workspace_of(chosen->memory, x.device());
  const Factors factors(x.dtype(), 1, 1);  // added to the bias, which y holds
  return cudnnConvolutionForward(handle, factors.alpha(), d.x.get(), x.raw_data(), d.weight.get(),
                                 weight.raw_data(), d.conv.get(), chosen->algo,
                                 workspace.raw_data(), chosen->memory, factors.beta(), d.y.get(),
                                 y.raw_data()) == CUDNN_STATUS_SUCCESS;
}

bool conv2d_backward_input_cudnn(const Tensor& dy, const Tensor& weight, Tensor& dx,
                                 const ConvGeometry& geometry, Stream stream) {
  if (!fits(geometry)) return false;
  const cudnn::Handle handle(stream);
  const Description d(geometry, dy.dtype());
  std::array<cudnnConvolutionBwdDataAlgoPerf_t, kMostAlgorithms> suggestions;
  int count = 0;
  if (cudnnGetConvolutionBackwardDataAlgorithm_v7(handle, d.weight.get(), d.y.get(), d.conv.get(),
                                                  d.x.get(), kMostAlgorithms, &count,
                                                  suggestions.data()) != CUDNN_STATUS_SUCCESS)
    return false;
  const auto* const chosen = choose(suggestions, count);
  if (chosen == nullptr) return false;
  WEFT_CUDNN_CHECK(cudnnSetConvolutionMathType(d.conv.get(), chosen->mathType));
  const Tensor workspace = workspace_of(chosen->memory, dy.device());
  const Factors factors(dy.dtype(), 1, 0);
  return cudnnConvolutionBackwardData(handle, factors.alpha(), d.weight.get(), weight.raw_data(),
                                      d.y.get(), dy.raw_data(), d.conv.get(), chosen->algo,
                                      workspace.raw_data(), chosen->memory, factors.beta(),
                                      d.x.get(), dx.raw_data()) == CUDNN_STATUS_SUCCESS;
}

bool conv2d_backward_weight_cudnn(const Tensor& dy, const Tensor& x, Tensor& dweight,
                                  const ConvGeometry& geometry, Stream stream) {
  if (!fits(geometry)) return false;
  const cudnn::Handle handle(stream);
  const Description d(geometry, dweight.dtype());
  std::array<cudnnConvolutionBwdFilterAlgoPerf_t, kMostAlgorithms> suggestions;
  int count = 0;
  if (cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle, d.x.get(), d.y.get(), d.conv.get(),
                                                    d.weight.get(), kMostAlgorithms, &count,
                                                    suggestions.data()) != CUDNN_STATUS_SUCCESS)
    return false;
  const auto* const chosen = choose(suggestions, count);
  if (chosen == nullptr) return false;
  WEFT_CUDNN_CHECK(cudnnSetConvolutionMathType(d.conv.get(), chosen->mathType));
  const Tensor workspace = workspace_of(chosen->memory, dy.device());
  const Factors factors(dweight.dtype(), 1, 0);
  return cudnnConvolutionBackwardFilter(handle, factors.alpha(), d.x.get(), x.raw_data(), d.y.get(),
                                        dy.raw_data(), d.conv.get(), chosen->algo,
                                        workspace.raw_data(), chosen->memory, factors.beta(),
                                        d.weight.get(), dweight.raw_data()) == CUDNN_STATUS_SUCCESS;
}

}  // namespace weft::cuda
