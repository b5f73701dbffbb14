#include "ops/conv_cudnn.h"

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "weft/tensor/check.h"

#include "cuda/cudnn_choice.h"
#include "cuda/cudnn_layers.h"
#include "ops/lru_cache.h"

namespace weft::cuda {
namespace {

using cudnn::describe_tensor;
using cudnn::Factors;
using cudnn::TensorDescriptor;

struct DescriptorDeleter {
  void operator()(cudnnFilterStruct* it) const { cudnnDestroyFilterDescriptor(it); }
  void operator()(cudnnConvolutionStruct* it) const { cudnnDestroyConvolutionDescriptor(it); }
};
using FilterDescriptor = std::unique_ptr<cudnnFilterStruct, DescriptorDeleter>;
using ConvDescriptor = std::unique_ptr<cudnnConvolutionStruct, DescriptorDeleter>;

bool fits(const ConvGeometry& g) {
  const auto& o = g.options;
  return cudnn::fit_int({g.batch * g.channels * g.height * g.width, g.out_channels * g.taps(),
                         g.batch * g.out_channels * g.out_size(), o.padding[0], o.padding[1],
                         o.stride[0], o.stride[1], o.dilation[0], o.dilation[1]});
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

constexpr size_t kMostWorkspace = size_t{256} << 20;
constexpr int kMostAlgorithms = 16;

/// An algorithm, or why there is none.
template <class Performance>
struct Choice {
  std::optional<Performance> algorithm;
  std::string refusal;
};

/// The first of the library's suggestions, which it sorts by expected speed, that repeats to the
/// bit and needs little memory.
template <class Performance>
Choice<Performance> choose(std::span<const Performance> suggestions) {
  for (const Performance& it : suggestions) {
    if (it.status == CUDNN_STATUS_SUCCESS && it.determinism == CUDNN_DETERMINISTIC &&
        it.memory <= kMostWorkspace)
      return {it, ""};
  }
  return {std::nullopt, "no algorithm that repeats to the bit"};
}

/// All that the choice depends on.
using ConvKey = std::array<int64_t, 18>;

ConvKey key_of(const ConvGeometry& g, DType dtype, Device device) {
  const auto& o = g.options;
  return {device.index,   static_cast<int64_t>(dtype),
          g.batch,        g.channels,
          g.height,       g.width,
          g.out_channels, g.out_height,
          g.out_width,    g.kernel_height,
          g.kernel_width, o.stride[0],
          o.stride[1],    o.padding[0],
          o.padding[1],   o.dilation[0],
          o.dilation[1],  o.groups};
}

/// The library's two functions of a direction: they take the operands and the result in one order.
template <class Performance, class Suggest, class Run>
struct Direction {
  Suggest* suggest;
  Run* run;
};
template <class Performance, class Suggest, class Run>
constexpr Direction<Performance, Suggest, Run> direction(Suggest* suggest, Run* run) {
  return {suggest, run};
}
constexpr auto kForward = direction<cudnnConvolutionFwdAlgoPerf_t>(
    &cudnnGetConvolutionForwardAlgorithm_v7, &cudnnConvolutionForward);
constexpr auto kBackwardInput = direction<cudnnConvolutionBwdDataAlgoPerf_t>(
    &cudnnGetConvolutionBackwardDataAlgorithm_v7, &cudnnConvolutionBackwardData);
constexpr auto kBackwardWeight = direction<cudnnConvolutionBwdFilterAlgoPerf_t>(
    &cudnnGetConvolutionBackwardFilterAlgorithm_v7, &cudnnConvolutionBackwardFilter);

/// A tensor and its descriptor among those of the convolution.
template <class Descriptor>
struct Operand {
  Descriptor Description::*descriptor;
  const Tensor& tensor;
};
template <class Descriptor>
Operand(Descriptor Description::*, const Tensor&) -> Operand<Descriptor>;

/// result = a convolved with b + beta result, in the sense of the direction.
template <class Performance, class Suggest, class Run, class A, class B, class C>
bool convolve(const char* op, const Direction<Performance, Suggest, Run>& direction,
              const Operand<A>& a, const Operand<B>& b, const Operand<C>& result, double beta,
              const ConvGeometry& geometry, Stream stream) {
  const DType dtype = result.tensor.dtype();
  return cudnn::run_by_cudnn(op, dtype, stream.device(), [&]() -> std::string {
    if (!fits(geometry)) return "sizes beyond 2^31";
    const cudnn::Handle handle(stream);
    const Description d(geometry, dtype);
    const auto descriptor = [&](const auto& operand) { return (d.*operand.descriptor).get(); };
    static LruCache<ConvKey, std::shared_ptr<const Choice<Performance>>, NumbersHash> choices(1024);
    const auto choice = choices.get_or_make(key_of(geometry, dtype, stream.device()), [&] {
      std::array<Performance, kMostAlgorithms> suggestions;
      int count = 0;
      std::string refusal = cudnn::refusal(
          direction.suggest(handle, descriptor(a), descriptor(b), d.conv.get(), descriptor(result),
                            kMostAlgorithms, &count, suggestions.data()),
          "choosing an algorithm");
      const std::span<const Performance> made(suggestions.data(), static_cast<size_t>(count));
      return std::make_shared<const Choice<Performance>>(
          refusal.empty() ? choose(made) : Choice<Performance>{std::nullopt, std::move(refusal)});
    });
    if (!choice->algorithm) return choice->refusal;
    const Performance* const chosen = &*choice->algorithm;
    WEFT_CUDNN_CHECK(cudnnSetConvolutionMathType(d.conv.get(), chosen->mathType));
    const Tensor workspace =
        empty({static_cast<int64_t>(chosen->memory)}, DType::u8, stream.device());
    const Factors factors(dtype, 1, beta);
    return cudnn::refusal(
        direction.run(handle, factors.alpha(), descriptor(a), a.tensor.raw_data(), descriptor(b),
                      b.tensor.raw_data(), d.conv.get(), chosen->algo, workspace.raw_data(),
                      chosen->memory, factors.beta(), descriptor(result), result.tensor.raw_data()),
        "the convolution");
  });
}

}  // namespace

bool conv2d_forward_cudnn(const Tensor& x, const Tensor& weight, Tensor& y,
                          const ConvGeometry& geometry, Stream stream) {
  // Added to the bias, which y holds.
  return convolve("conv2d", kForward, Operand{&Description::x, x},
                  Operand{&Description::weight, weight}, Operand{&Description::y, y}, 1, geometry,
                  stream);
}

bool conv2d_backward_input_cudnn(const Tensor& dy, const Tensor& weight, Tensor& dx,
                                 const ConvGeometry& geometry, Stream stream) {
  return convolve("conv2d_backward_input", kBackwardInput, Operand{&Description::weight, weight},
                  Operand{&Description::y, dy}, Operand{&Description::x, dx}, 0, geometry, stream);
}

bool conv2d_backward_weight_cudnn(const Tensor& dy, const Tensor& x, Tensor& dweight,
                                  const ConvGeometry& geometry, Stream stream) {
  return convolve("conv2d_backward_weight", kBackwardWeight, Operand{&Description::x, x},
                  Operand{&Description::y, dy}, Operand{&Description::weight, dweight}, 0, geometry,
                  stream);
}

}  // namespace weft::cuda
