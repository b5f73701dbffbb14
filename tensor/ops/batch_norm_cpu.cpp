#include <algorithm>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/batch_norm_kernels.h"
#include "ops/simd.h"

namespace weft {
namespace {

/// Sizes of x [N, C, inner].
struct Sizes {
  int64_t images, channels, inner;

  explicit Sizes(const Tensor& x) : images(x.size(0)), channels(x.size(1)), inner(x.size(2)) {}

  double count() const { return static_cast<double>(images) * static_cast<double>(inner); }
  /// Calls body(channel) for all channels, on all threads.
  template <class Body>
  void for_each_channel(Body&& body) const {
    const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(images * inner, 1));
    parallel_for(0, channels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t channel = begin; channel < end; ++channel) body(channel);
    });
  }
  /// Calls body(offset) for the rows [inner] of a channel.
  template <class Body>
  void for_each_row(int64_t channel, Body&& body) const {
    for (int64_t image = 0; image < images; ++image) body((image * channels + channel) * inner);
  }
};

/// Sum over a channel of term(offset, lanes), a vector; rows are added up in double.
template <class Acc, class Term>
double sum_channel(const Sizes& sizes, int64_t channel, Term&& term) {
  double total = 0;
  sizes.for_each_row(channel, [&](int64_t row) {
    simd::Accumulators<Acc> sums;
    simd::for_each_vector<Acc>(sizes.inner, [&](int64_t i, auto lanes, auto slot) {
      sums.part[slot] += simd::keep(term(row + i, lanes), lanes);
    });
    total += static_cast<double>(sums.sum());
  });
  return total;
}

/// Mean and variance (of the population) of each channel.
void statistics(const Tensor& x, Tensor& mean, Tensor& variance) {
  const Sizes sizes(x);
  dispatch_floating(x.dtype(), "batch_norm", [&]<class T>() {
    using Acc = accumulator_t<T>;
    const T* const in = x.data<T>();
    Acc* const means = mean.data<Acc>();
    Acc* const variances = variance.data<Acc>();
    sizes.for_each_channel([&](int64_t channel) {
      const double sum = sum_channel<Acc>(
          sizes, channel, [&](int64_t at, auto lanes) { return simd::load(in + at, lanes); });
      const Acc center = static_cast<Acc>(sum / sizes.count());
      const double squares = sum_channel<Acc>(sizes, channel, [&](int64_t at, auto lanes) {
        const auto distance = simd::load(in + at, lanes) - center;
        return distance * distance;
      });
      means[channel] = center;
      variances[channel] = static_cast<Acc>(squares / sizes.count());
    });
  });
}

/// y = (x - mean) * rstd * gain + bias.
void normalize(const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& gain,
               const Tensor& bias, Tensor& y) {
  const Sizes sizes(x);
  dispatch_floating(x.dtype(), "batch_norm", [&]<class T>() {
    using Acc = accumulator_t<T>;
    const T* const in = x.data<T>();
    T* const out = y.data<T>();
    sizes.for_each_channel([&](int64_t channel) {
      const Acc center = mean.data<Acc>()[channel];
      const Acc scale = rstd.data<Acc>()[channel] * gain.data<Acc>()[channel];
      const Acc shift = bias.data<Acc>()[channel];
      sizes.for_each_row(channel, [&](int64_t row) {
        simd::for_each_vector<Acc>(sizes.inner, [&](int64_t i, auto lanes, auto) {
          const auto value = simd::load(in + row + i, lanes);
          simd::store(out + row + i, (value - center) * scale + shift, lanes);
        });
      });
    });
  });
}

}  // namespace

void batch_norm_train_cpu(BatchNormTrainParams& params, Stream /*stream*/) {
  Tensor variance = empty_like(params.mean);
  statistics(params.x, params.mean, variance);
  finish_statistics(params, variance);
  normalize(params.x, params.mean, params.rstd, params.gain, params.bias, params.y);
}

void batch_norm_eval_cpu(BatchNormEvalParams& params, Stream /*stream*/) {
  normalize(params.x, params.mean, inverse_deviation(params.variance, params.eps), params.gain,
            params.bias, params.y);
}

void batch_norm_backward_cpu(BatchNormBackwardParams& params, Stream /*stream*/) {
  const Sizes sizes(params.x);
  dispatch_floating(params.x.dtype(), "batch_norm_backward", [&]<class T>() {
    using Acc = accumulator_t<T>;
    const T* const in = params.x.data<T>();
    const T* const gradient = params.dy.data<T>();
    T* const out = params.dx.data<T>();
    Acc* const dgain = params.dgain.data<Acc>();
    Acc* const dbias = params.dbias.data<Acc>();
    sizes.for_each_channel([&](int64_t channel) {
      const Acc center = params.mean.data<Acc>()[channel];
      const Acc rstd = params.rstd.data<Acc>()[channel];
      const Acc scale = rstd * params.gain.data<Acc>()[channel];
      const double sum = sum_channel<Acc>(
          sizes, channel, [&](int64_t at, auto lanes) { return simd::load(gradient + at, lanes); });
      const double products = sum_channel<Acc>(sizes, channel, [&](int64_t at, auto lanes) {
        return simd::load(gradient + at, lanes) * ((simd::load(in + at, lanes) - center) * rstd);
      });
      dbias[channel] = static_cast<Acc>(sum);
      dgain[channel] = static_cast<Acc>(products);
      // What flows back through mean and rstd.
      const bool constant = params.constant_statistics;
      const Acc mean_gradient = constant ? 0 : static_cast<Acc>(sum / sizes.count());
      const Acc mean_product = constant ? 0 : static_cast<Acc>(products / sizes.count());
      sizes.for_each_row(channel, [&](int64_t row) {
        simd::for_each_vector<Acc>(sizes.inner, [&](int64_t i, auto lanes, auto) {
          const auto normalized = (simd::load(in + row + i, lanes) - center) * rstd;
          const auto dy = simd::load(gradient + row + i, lanes);
          simd::store(out + row + i, scale * (dy - mean_gradient - normalized * mean_product),
                      lanes);
        });
      });
    });
  });
}

}  // namespace weft
