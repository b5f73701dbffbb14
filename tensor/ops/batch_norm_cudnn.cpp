#include "ops/batch_norm_cudnn.h"

#include <string>

#include "weft/tensor/check.h"

#include "cuda/cudnn_choice.h"
#include "cuda/cudnn_layers.h"

namespace weft::cuda {
namespace {

using cudnn::Factors;
using cudnn::TensorDescriptor;

constexpr cudnnBatchNormMode_t kMode = CUDNN_BATCHNORM_SPATIAL;

/// Why the library is not asked for x [N, C, inner]; empty where it is. More images than these make
/// grids that its kernels cannot start.
std::string limits(const Tensor& x, int64_t most_images, double eps) {
  if (!cudnn::fit_int({x.numel()})) return "sizes beyond 2^31";
  if (x.size(0) > most_images) return fmt::format("more than {} images", most_images);
  if (eps < CUDNN_BN_MIN_EPSILON)
    return fmt::format("eps below {}, cuDNN's least", CUDNN_BN_MIN_EPSILON);
  return "";
}
constexpr int64_t kMostImages = 65535;

/// The descriptors of the data and of what there is one of for each channel.
struct Description {
  TensorDescriptor data, channels;

  explicit Description(const Tensor& x)
      : data(cudnn::describe_tensor(x.dtype(), x.size(0), x.size(1), x.size(2), 1)),
        channels(cudnn::make_tensor_descriptor()) {
    WEFT_CUDNN_CHECK(cudnnDeriveBNTensorDescriptor(channels.get(), data.get(), kMode));
  }
};

bool is_dense(const Tensor& tensor) {
  return !tensor.defined() || tensor.is_contiguous();
}

void* data_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.raw_data() : nullptr;
}

}  // namespace

bool batch_norm_train_cudnn(BatchNormTrainParams& params, Stream stream) {
  const Tensor& x = params.x;
  const RunningStatistics& running = params.running;
  const bool done =
      cudnn::run_by_cudnn("batch_norm_train", x.dtype(), stream.device(), [&]() -> std::string {
        std::string refusal = limits(x, kMostImages, params.eps);
        if (!refusal.empty()) return refusal;
        if (!is_dense(running.mean) || !is_dense(running.variance))
          return "running statistics with gaps";
        const cudnn::Handle handle(stream);
        const Description d(x);
        const Factors factors(x.dtype(), 1, 0);
        return cudnn::refusal(cudnnBatchNormalizationForwardTraining(
                                  handle, kMode, factors.alpha(), factors.beta(), d.data.get(),
                                  x.raw_data(), d.data.get(), params.y.raw_data(), d.channels.get(),
                                  params.gain.raw_data(), params.bias.raw_data(), params.momentum,
                                  data_or_null(running.mean), data_or_null(running.variance),
                                  params.eps, params.mean.raw_data(), params.rstd.raw_data()),
                              "the normalisation");
      });
  if (done && running.mean.defined()) {
    running.mean.storage()->bump_version();
    running.variance.storage()->bump_version();
  }
  return done;
}

bool batch_norm_eval_cudnn(BatchNormEvalParams& params, Stream stream) {
  const Tensor& x = params.x;
  return cudnn::run_by_cudnn("batch_norm_eval", x.dtype(), stream.device(), [&]() -> std::string {
    std::string refusal = limits(x, kMostImages, params.eps);
    if (!refusal.empty()) return refusal;
    const cudnn::Handle handle(stream);
    const Description d(x);
    const Factors factors(x.dtype(), 1, 0);
    return cudnn::refusal(
        cudnnBatchNormalizationForwardInference(
            handle, kMode, factors.alpha(), factors.beta(), d.data.get(), x.raw_data(),
            d.data.get(), params.y.raw_data(), d.channels.get(), params.gain.raw_data(),
            params.bias.raw_data(), params.mean.raw_data(), params.variance.raw_data(), params.eps),
        "the normalisation");
  });
}

bool batch_norm_backward_cudnn(BatchNormBackwardParams& params, Stream stream) {
  const Tensor& x = params.x;
  return cudnn::run_by_cudnn(
      "batch_norm_backward", x.dtype(), stream.device(), [&]() -> std::string {
        if (params.constant_statistics) return "statistics that are constant";
        // Given mean and rstd, eps is not read; it must be one that is allowed.
        constexpr double kAnyEps = 1e-5;
        std::string refusal = limits(x, kMostImages, kAnyEps);
        if (!refusal.empty()) return refusal;
        const cudnn::Handle handle(stream);
        const Description d(x);
        const Factors factors(x.dtype(), 1, 0);
        return cudnn::refusal(
            cudnnBatchNormalizationBackward(
                handle, kMode, factors.alpha(), factors.beta(), factors.alpha(), factors.beta(),
                d.data.get(), x.raw_data(), d.data.get(), params.dy.raw_data(), d.data.get(),
                params.dx.raw_data(), d.channels.get(), params.gain.raw_data(),
                params.dgain.raw_data(), params.dbias.raw_data(), kAnyEps, params.mean.raw_data(),
                params.rstd.raw_data()),
            "the gradients");
      });
}

}  // namespace weft::cuda
