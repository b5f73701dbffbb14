// Batch normalisation: cuDNN where batch_norm_cudnn.h has it, else a block reduces one channel, in
// a fixed order, so that results repeat to the bit. Sums are kept in double, as on the CPU: a
// channel can hold millions of elements.
#include <algorithm>

#include "weft/tensor/dispatch.h"

#include "cuda/element.cuh"
#include "cuda/launch.cuh"
#include "ops/batch_norm_kernels.h"
#ifdef WEFT_HAVE_CUDNN
#include "ops/batch_norm_cudnn.h"
#endif

namespace weft {
namespace {

constexpr int kThreads = 512;

/// Sizes of x [N, C, inner].
struct Sizes {
  int64_t images, channels, inner;

  explicit Sizes(const Tensor& x) : images(x.size(0)), channels(x.size(1)), inner(x.size(2)) {}

  __host__ __device__ double count() const {
    return static_cast<double>(images) * static_cast<double>(inner);
  }
  /// Calls body(offset) for the elements of a channel that are this thread's.
  template <class Body>
  __device__ void for_each_element(int64_t channel, Body&& body) const {
    for (int64_t i = threadIdx.x; i < images * inner; i += blockDim.x)
      body((i / inner * channels + channel) * inner + i % inner);
  }
};

/// The sum over the block, in every thread.
__device__ double block_sum(double value) {
  __shared__ double parts[32];
  for (int offset = 16; offset > 0; offset /= 2)
    value += __shfl_down_sync(0xffffffffu, value, offset);
  __syncthreads();  // the parts of an earlier sum have been read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  double total = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += parts[warp];
  return total;
}

template <class T>
__global__ void batch_statistics_kernel(const T* in, accumulator_t<T>* means,
                                        accumulator_t<T>* variances, Sizes sizes) {
  using Acc = accumulator_t<T>;
  const int64_t channel = blockIdx.x;
  double sum = 0;
  sizes.for_each_element(channel, [&](int64_t at) { sum += cuda::element_as<Acc>(in[at]); });
  const Acc center = static_cast<Acc>(block_sum(sum) / sizes.count());
  double squares = 0;
  sizes.for_each_element(channel, [&](int64_t at) {
    const Acc distance = cuda::element_as<Acc>(in[at]) - center;
    squares += static_cast<double>(distance) * distance;
  });
  const double total = block_sum(squares);
  if (threadIdx.x == 0) {
    means[channel] = center;
    variances[channel] = static_cast<Acc>(total / sizes.count());
  }
}

template <class T>
__global__ void batch_normalize_kernel(const T* in, const accumulator_t<T>* mean,
                                       const accumulator_t<T>* rstd, const accumulator_t<T>* gain,
                                       const accumulator_t<T>* bias, T* out, Sizes sizes) {
  using Acc = accumulator_t<T>;
  const int64_t count = sizes.images * sizes.channels * sizes.inner;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += step) {
    const int64_t channel = i / sizes.inner % sizes.channels;
    const Acc scale = rstd[channel] * gain[channel];
    out[i] =
        cuda::element_as<T>((cuda::element_as<Acc>(in[i]) - mean[channel]) * scale + bias[channel]);
  }
}

template <class T>
struct BackwardArguments {
  const T *gradient, *in;
  const accumulator_t<T>*gain, *mean, *rstd;
  T* out;
  accumulator_t<T>*dgain, *dbias;
  bool constant_statistics;
};

template <class T>
__global__ void batch_norm_backward_kernel(BackwardArguments<T> p, Sizes sizes) {
  using Acc = accumulator_t<T>;
  const int64_t channel = blockIdx.x;
  const Acc center = p.mean[channel];
  const Acc rstd = p.rstd[channel];
  double sum = 0, products = 0;
  sizes.for_each_element(channel, [&](int64_t at) {
    const Acc dy = cuda::element_as<Acc>(p.gradient[at]);
    sum += dy;
    products += static_cast<double>(dy) * ((cuda::element_as<Acc>(p.in[at]) - center) * rstd);
  });
  sum = block_sum(sum);
  products = block_sum(products);
  if (threadIdx.x == 0) {
    p.dbias[channel] = static_cast<Acc>(sum);
    p.dgain[channel] = static_cast<Acc>(products);
  }
  // What flows back through mean and rstd.
  const Acc mean_gradient = p.constant_statistics ? 0 : static_cast<Acc>(sum / sizes.count());
  const Acc mean_product = p.constant_statistics ? 0 : static_cast<Acc>(products / sizes.count());
  const Acc scale = rstd * p.gain[channel];
  sizes.for_each_element(channel, [&](int64_t at) {
    const Acc normalized = (cuda::element_as<Acc>(p.in[at]) - center) * rstd;
    const Acc dy = cuda::element_as<Acc>(p.gradient[at]);
    p.out[at] = cuda::element_as<T>(scale * (dy - mean_gradient - normalized * mean_product));
  });
}

/// Mean and variance (of the population) of each channel.
void statistics(const Tensor& x, Tensor& mean, Tensor& variance, Stream stream) {
  dispatch_floating(x.dtype(), "batch_norm", [&]<class T>() {
    using Acc = accumulator_t<T>;
    cuda::launch("batch_norm", stream, {static_cast<unsigned>(x.size(1)), kThreads},
                 batch_statistics_kernel<T>, x.data<T>(), mean.data<Acc>(), variance.data<Acc>(),
                 Sizes(x));
  });
}

/// y = (x - mean) * rstd * gain + bias.
void normalize(const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& gain,
               const Tensor& bias, Tensor& y, Stream stream) {
  dispatch_floating(x.dtype(), "batch_norm", [&]<class T>() {
    using Acc = accumulator_t<T>;
    cuda::launch("batch_norm", stream, {cuda::blocks_for(x.numel(), kThreads), kThreads},
                 batch_normalize_kernel<T>, x.data<T>(), mean.data<Acc>(), rstd.data<Acc>(),
                 gain.data<Acc>(), bias.data<Acc>(), y.data<T>(), Sizes(x));
  });
}

}  // namespace

void batch_norm_train_cuda(BatchNormTrainParams& params, Stream stream) {
#ifdef WEFT_HAVE_CUDNN
  if (cuda::batch_norm_train_cudnn(params, stream)) return;
#endif
  Tensor variance = empty_like(params.mean);
  statistics(params.x, params.mean, variance, stream);
  finish_statistics(params, variance);
  normalize(params.x, params.mean, params.rstd, params.gain, params.bias, params.y, stream);
}

void batch_norm_eval_cuda(BatchNormEvalParams& params, Stream stream) {
#ifdef WEFT_HAVE_CUDNN
  if (cuda::batch_norm_eval_cudnn(params, stream)) return;
#endif
  normalize(params.x, params.mean, inverse_deviation(params.variance, params.eps), params.gain,
            params.bias, params.y, stream);
}

void batch_norm_backward_cuda(BatchNormBackwardParams& params, Stream stream) {
#ifdef WEFT_HAVE_CUDNN
  if (cuda::batch_norm_backward_cudnn(params, stream)) return;
#endif
  dispatch_floating(params.x.dtype(), "batch_norm_backward", [&]<class T>() {
    using Acc = accumulator_t<T>;
    const BackwardArguments<T> arguments{
        params.dy.data<T>(),      params.x.data<T>(),       params.gain.data<Acc>(),
        params.mean.data<Acc>(),  params.rstd.data<Acc>(),  params.dx.data<T>(),
        params.dgain.data<Acc>(), params.dbias.data<Acc>(), params.constant_statistics};
    cuda::launch("batch_norm_backward", stream, {static_cast<unsigned>(params.x.size(1)), kThreads},
                 batch_norm_backward_kernel<T>, arguments, Sizes(params.x));
  });
}

}  // namespace weft
