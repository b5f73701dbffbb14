// Convolution on the GPU: cuDNN where it has an algorithm, else loops over the definition, one
// thread (or block) an element of the result, so that results repeat to the bit.
#include <algorithm>

#include "weft/tensor/dispatch.h"

#include "cuda/element.cuh"
#include "cuda/launch.cuh"
#include "ops/conv_kernels.h"
#ifdef WEFT_HAVE_CUDNN
#include "ops/conv_cudnn.h"
#endif

namespace weft {
namespace {

constexpr int kThreads = 256;

/// The sizes as kernels take them.
struct ConvSizes {
  int64_t batch, channels, height, width, out_channels, out_height, out_width;
  int64_t group_channels, group_out_channels, kernel_height, kernel_width;
  int64_t stride[2], padding[2], dilation[2];

  explicit ConvSizes(const ConvGeometry& g)
      : batch(g.batch),
        channels(g.channels),
        height(g.height),
        width(g.width),
        out_channels(g.out_channels),
        out_height(g.out_height),
        out_width(g.out_width),
        group_channels(g.group_channels()),
        group_out_channels(g.group_out_channels()),
        kernel_height(g.kernel_height),
        kernel_width(g.kernel_width),
        stride{g.options.stride[0], g.options.stride[1]},
        padding{g.options.padding[0], g.options.padding[1]},
        dilation{g.options.dilation[0], g.options.dilation[1]} {}

  __device__ int64_t input_row(int64_t y, int64_t tap) const {
    return y * stride[0] - padding[0] + tap * dilation[0];
  }
  __device__ int64_t input_column(int64_t x, int64_t tap) const {
    return x * stride[1] - padding[1] + tap * dilation[1];
  }
};

/// Calls body(element, image, channel, row, column) for this thread's share of a tensor [images,
/// channels, height, width].
template <class Body>
__device__ void for_each_element(int64_t images, int64_t channels, int64_t height, int64_t width,
                                 Body&& body) {
  const int64_t count = images * channels * height * width;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += step) {
    const int64_t plane = i / (width * height);
    body(i, plane / channels, plane % channels, i / width % height, i % width);
  }
}

template <class T>
__global__ void conv2d_forward_kernel(const T* in, const T* weight, T* out, ConvSizes g) {
  using Acc = accumulator_t<T>;
  const auto make = [&](int64_t i, int64_t image, int64_t channel, int64_t y, int64_t x) {
    const int64_t first = channel / g.group_out_channels * g.group_channels;
    Acc sum = 0;
    for (int64_t c = 0; c < g.group_channels; ++c) {
      const T* const plane = in + (image * g.channels + first + c) * g.height * g.width;
      const T* const filter =
          weight + (channel * g.group_channels + c) * g.kernel_height * g.kernel_width;
      for (int64_t ky = 0; ky < g.kernel_height; ++ky) {
        const int64_t row = g.input_row(y, ky);
        if (row < 0 || row >= g.height) continue;
        for (int64_t kx = 0; kx < g.kernel_width; ++kx) {
          const int64_t column = g.input_column(x, kx);
          if (column < 0 || column >= g.width) continue;
          sum += cuda::element_as<Acc>(plane[row * g.width + column]) *
                 cuda::element_as<Acc>(filter[ky * g.kernel_width + kx]);
        }
      }
    }
    out[i] = cuda::element_as<T>(cuda::element_as<Acc>(out[i]) + sum);
  };
  for_each_element(g.batch, g.out_channels, g.out_height, g.out_width, make);
}

/// Where an output reads input position `at` through a tap, or -1.
__device__ int64_t output_position(int64_t at, int64_t tap, int64_t stride, int64_t padding,
                                   int64_t dilation, int64_t out_size) {
  const int64_t scaled = at + padding - tap * dilation;
  if (scaled < 0 || scaled % stride != 0) return -1;
  const int64_t position = scaled / stride;
  return position < out_size ? position : -1;
}

template <class T>
__global__ void conv2d_backward_input_kernel(const T* gradient, const T* weight, T* out,
                                             ConvSizes g) {
  using Acc = accumulator_t<T>;
  const auto make = [&](int64_t i, int64_t image, int64_t channel, int64_t row, int64_t column) {
    const int64_t first = channel / g.group_channels * g.group_out_channels;
    const int64_t c = channel % g.group_channels;
    Acc sum = 0;
    for (int64_t ky = 0; ky < g.kernel_height; ++ky) {
      const int64_t y =
          output_position(row, ky, g.stride[0], g.padding[0], g.dilation[0], g.out_height);
      if (y < 0) continue;
      for (int64_t kx = 0; kx < g.kernel_width; ++kx) {
        const int64_t x =
            output_position(column, kx, g.stride[1], g.padding[1], g.dilation[1], g.out_width);
        if (x < 0) continue;
        for (int64_t o = first; o < first + g.group_out_channels; ++o) {
          sum +=
              cuda::element_as<Acc>(
                  gradient[((image * g.out_channels + o) * g.out_height + y) * g.out_width + x]) *
              cuda::element_as<Acc>(
                  weight[((o * g.group_channels + c) * g.kernel_height + ky) * g.kernel_width +
                         kx]);
        }
      }
    }
    out[i] = cuda::element_as<T>(sum);
  };
  for_each_element(g.batch, g.channels, g.height, g.width, make);
}

/// A block an element of the weight.
template <class T>
__global__ void conv2d_backward_weight_kernel(const T* gradient, const T* in, accumulator_t<T>* out,
                                              ConvSizes g) {
  using Acc = accumulator_t<T>;
  const int64_t count = g.out_channels * g.group_channels * g.kernel_height * g.kernel_width;
  __shared__ Acc parts[kThreads];
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const int64_t kx = i % g.kernel_width;
    const int64_t ky = i / g.kernel_width % g.kernel_height;
    const int64_t c = i / (g.kernel_width * g.kernel_height) % g.group_channels;
    const int64_t o = i / (g.kernel_width * g.kernel_height * g.group_channels);
    const int64_t channel = o / g.group_out_channels * g.group_channels + c;
    const int64_t out_size = g.out_height * g.out_width;
    Acc sum = 0;
    for (int64_t at = threadIdx.x; at < g.batch * out_size; at += blockDim.x) {
      const int64_t image = at / out_size;
      const int64_t row = g.input_row(at % out_size / g.out_width, ky);
      const int64_t column = g.input_column(at % g.out_width, kx);
      if (row < 0 || row >= g.height || column < 0 || column >= g.width) continue;
      sum +=
          cuda::element_as<Acc>(gradient[(image * g.out_channels + o) * out_size + at % out_size]) *
          cuda::element_as<Acc>(
              in[((image * g.channels + channel) * g.height + row) * g.width + column]);
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0) out[i] = parts[0];
    __syncthreads();
  }
}

}  // namespace

void conv2d_forward_cuda(const Tensor& x, const Tensor& weight, Tensor& y,
                         const ConvGeometry& geometry, Stream stream) {
#ifdef WEFT_HAVE_CUDNN
  if (cuda::conv2d_forward_cudnn(x, weight, y, geometry, stream)) return;
#endif
  dispatch_floating(x.dtype(), "conv2d", [&]<class T>() {
    cuda::launch("conv2d", stream, {cuda::blocks_for(y.numel(), kThreads), kThreads},
                 conv2d_forward_kernel<T>, x.data<T>(), weight.data<T>(), y.data<T>(),
                 ConvSizes(geometry));
  });
}

void conv2d_backward_input_cuda(const Tensor& dy, const Tensor& weight, Tensor& dx,
                                const ConvGeometry& geometry, Stream stream) {
#ifdef WEFT_HAVE_CUDNN
  if (cuda::conv2d_backward_input_cudnn(dy, weight, dx, geometry, stream)) return;
#endif
  dispatch_floating(dy.dtype(), "conv2d_backward_input", [&]<class T>() {
    cuda::launch("conv2d_backward_input", stream,
                 {cuda::blocks_for(dx.numel(), kThreads), kThreads},
                 conv2d_backward_input_kernel<T>, dy.data<T>(), weight.data<T>(), dx.data<T>(),
                 ConvSizes(geometry));
  });
}

void conv2d_backward_weight_cuda(const Tensor& dy, const Tensor& x, Tensor& dweight,
                                 const ConvGeometry& geometry, Stream stream) {
#ifdef WEFT_HAVE_CUDNN
  // The library gives a gradient of the operands' type; ours is to be exact.
  if (cuda::conv2d_backward_weight_cudnn(dy.to(dweight.dtype()), x.to(dweight.dtype()), dweight,
                                         geometry, stream))
    return;
#endif
  dispatch_floating(dy.dtype(), "conv2d_backward_weight", [&]<class T>() {
    using Acc = accumulator_t<T>;
    cuda::launch("conv2d_backward_weight", stream,
                 {static_cast<unsigned>(std::min<int64_t>(dweight.numel(), 65535)), kThreads},
                 conv2d_backward_weight_kernel<T>, dy.data<T>(), x.data<T>(), dweight.data<Acc>(),
                 ConvSizes(geometry));
  });
}

}  // namespace weft
