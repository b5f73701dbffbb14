#include <algorithm>
#include <vector>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/conv_taps.h"
#include "ops/depthwise_conv.h"

namespace weft {
namespace {

/// A plane in the type of the sums: the plane itself, or a copy in `buffer`.
template <class T>
const accumulator_t<T>* widened(const T* plane, int64_t count,
                                std::vector<accumulator_t<T>>& buffer) {
  if constexpr (std::is_same_v<T, accumulator_t<T>>) {
    return plane;
  } else {
    buffer.resize(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i)
      buffer[static_cast<size_t>(i)] = static_cast<float>(plane[i]);
    return buffer.data();
  }
}

/// Calls body(tap, input_row_start, output_row_start) for each tap and output row whose input row
/// exists; starts are offsets in the planes.
template <class Body>
void for_each_tap_row(const ConvGeometry& g, Body&& body) {
  for (int64_t tap = 0; tap < g.taps(); ++tap) {
    const TapView view(g, tap);
    for (int64_t row = 0; row < g.out_height; ++row) {
      const int64_t input_row = view.input_row(g, row);
      if (input_row < 0 || input_row >= g.height) continue;
      body(tap, view, input_row * g.width + view.first_column, row * g.out_width);
    }
  }
}

/// Planes per thread below which splitting is not worth it.
int64_t plane_grain(const ConvGeometry& g) {
  return std::max<int64_t>(1, 16384 / (g.out_size() * g.taps()));
}

/// Sum of products in several independent lanes, in a fixed order.
template <class Acc>
Acc dot(const Acc* a, const Acc* b, int64_t b_stride, int64_t count) {
  constexpr int64_t kLanes = 16;
  Acc lanes[kLanes] = {};
  int64_t i = 0;
  if (b_stride == 1) {
    for (; i + kLanes <= count; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
    }
  }
  for (; i < count; ++i) lanes[i % kLanes] += a[i] * b[i * b_stride];
  Acc sum = 0;
  for (const Acc lane : lanes) sum += lane;
  return sum;
}

}  // namespace

void depthwise_forward_cpu(const Tensor& x, const Tensor& weight, Tensor& y,
                           const ConvGeometry& g) {
  dispatch_floating(x.dtype(), "conv2d", [&]<class T>() {
    using Acc = accumulator_t<T>;
    parallel_for(0, g.batch * g.channels, plane_grain(g), [&](int64_t begin, int64_t end) {
      std::vector<Acc> buffer, sums(static_cast<size_t>(g.out_size()));
      for (int64_t plane = begin; plane < end; ++plane) {
        const Acc* const in =
            widened(x.data<T>() + plane * g.height * g.width, g.height * g.width, buffer);
        const T* const filter = weight.data<T>() + plane % g.channels * g.taps();
        T* const out = y.data<T>() + plane * g.out_size();
        for (int64_t i = 0; i < g.out_size(); ++i) sums[static_cast<size_t>(i)] = out[i];
        for_each_tap_row(g, [&](int64_t tap, const TapView& view, int64_t from, int64_t to) {
          const Acc factor = static_cast<Acc>(filter[tap]);
          const int64_t stride = g.options.stride[1];
          Acc* const target = sums.data() + to;
          if (stride == 1) {
            for (int64_t i = view.begin; i < view.end; ++i) target[i] += factor * in[from + i];
          } else {
            for (int64_t i = view.begin; i < view.end; ++i)
              target[i] += factor * in[from + i * stride];
          }
        });
        for (int64_t i = 0; i < g.out_size(); ++i)
          out[i] = static_cast<T>(sums[static_cast<size_t>(i)]);
      }
    });
  });
}

void depthwise_backward_input_cpu(const Tensor& dy, const Tensor& weight, Tensor& dx,
                                  const ConvGeometry& g) {
  dispatch_floating(dy.dtype(), "conv2d_backward_input", [&]<class T>() {
    using Acc = accumulator_t<T>;
    parallel_for(0, g.batch * g.channels, plane_grain(g), [&](int64_t begin, int64_t end) {
      std::vector<Acc> buffer, sums(static_cast<size_t>(g.height * g.width));
      for (int64_t plane = begin; plane < end; ++plane) {
        const Acc* const gradient =
            widened(dy.data<T>() + plane * g.out_size(), g.out_size(), buffer);
        const T* const filter = weight.data<T>() + plane % g.channels * g.taps();
        std::fill(sums.begin(), sums.end(), Acc(0));
        for_each_tap_row(g, [&](int64_t tap, const TapView& view, int64_t to, int64_t from) {
          const Acc factor = static_cast<Acc>(filter[tap]);
          const int64_t stride = g.options.stride[1];
          Acc* const target = sums.data();
          if (stride == 1) {
            for (int64_t i = view.begin; i < view.end; ++i)
              target[to + i] += factor * gradient[from + i];
          } else {
            for (int64_t i = view.begin; i < view.end; ++i)
              target[to + i * stride] += factor * gradient[from + i];
          }
        });
        T* const out = dx.data<T>() + plane * g.height * g.width;
        for (int64_t i = 0; i < g.height * g.width; ++i)
          out[i] = static_cast<T>(sums[static_cast<size_t>(i)]);
      }
    });
  });
}

void depthwise_backward_weight_cpu(const Tensor& dy, const Tensor& x, Tensor& dweight,
                                   const ConvGeometry& g) {
  dispatch_floating(dy.dtype(), "conv2d_backward_weight", [&]<class T>() {
    using Acc = accumulator_t<T>;
    Acc* const sums = dweight.data<Acc>();
    parallel_for(0, g.channels, 1, [&](int64_t begin, int64_t end) {
      std::vector<Acc> input_buffer, gradient_buffer;
      for (int64_t channel = begin; channel < end; ++channel) {
        for (int64_t image = 0; image < g.batch; ++image) {
          const int64_t plane = image * g.channels + channel;
          const Acc* const in =
              widened(x.data<T>() + plane * g.height * g.width, g.height * g.width, input_buffer);
          const Acc* const gradient =
              widened(dy.data<T>() + plane * g.out_size(), g.out_size(), gradient_buffer);
          for_each_tap_row(g, [&](int64_t tap, const TapView& view, int64_t from, int64_t to) {
            const int64_t stride = g.options.stride[1];
            sums[channel * g.taps() + tap] +=
                dot(gradient + to + view.begin, in + from + view.begin * stride, stride,
                    view.end - view.begin);
          });
        }
      }
    });
  });
}

}  // namespace weft
