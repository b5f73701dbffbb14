#include <algorithm>
#include <cmath>

#include "weft/attention/kernels/gated_sum.h"
#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "kernels/gated_sum_kernels.h"
#include "kernels/simd.h"
#include "kernels/simd_rows.h"

namespace weft::attention {
namespace {

using simd::kLanes;
using simd::Vec;

/// Row (b, t, h) of a tensor [B, T, H, .].
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t batch_stride = 0, row_stride = 0, head_stride = 0;

  Rows() = default;
  explicit Rows(const Tensor& x)
      : data(static_cast<T*>(x.raw_data())),
        batch_stride(x.stride(0)),
        row_stride(x.stride(1)),
        head_stride(x.stride(2)) {}
  T* at(int64_t b, int64_t t, int64_t h) const {
    return data + b * batch_stride + t * row_stride + h * head_stride;
  }
};

template <class T, class Body>
void for_each_row(const GatedSumParams& params, const Body& body) {
  const Tensor& first = params.branches.front();
  const int64_t tokens = first.size(1), heads = first.size(2);
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 14) / (heads * first.size(3)));
  parallel_for(0, first.size(0) * tokens, grain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      for (int64_t h = 0; h < heads; ++h) body(at / tokens, at % tokens, h);
    }
  });
}

/// The gates of one row.
template <class T, int kCount>
struct Gates {
  using A = accumulator_t<T>;
  A value[kCount];
  Gates(const T* logits, const A* bias) {
    for (int c = 0; c < kCount; ++c) {
      const A logit = static_cast<A>(logits[c]) + (bias != nullptr ? bias[c] : A{0});
      value[c] = A{1} / (A{1} + std::exp(-logit));
    }
  }
};

template <class T, int kCount>
void forward(const GatedSumParams& params) {
  using A = accumulator_t<T>;
  Rows<const T> branches[kCount];
  for (int c = 0; c < kCount; ++c) branches[c] = Rows<const T>(params.branches[c]);
  const Rows<const T> logits(params.logits);
  const Rows<T> y(params.y);
  const A* const bias = params.bias.defined() ? params.bias.data<A>() : nullptr;
  const int64_t dim = params.y.size(3);
  for_each_row<T>(params, [&](int64_t b, int64_t t, int64_t h) {
    const Gates<T, kCount> gates(logits.at(b, t, h), bias != nullptr ? bias + h * kCount : bias);
    const T* from[kCount];
    for (int c = 0; c < kCount; ++c) from[c] = branches[c].at(b, t, h);
    T* const to = y.at(b, t, h);
    for (int64_t e = 0; e < dim; e += kLanes<A>) {
      Vec<A> sum{};
      for (int c = 0; c < kCount; ++c)
        sum += gates.value[c] * simd::load_converted<A>(from[c] + e, dim - e);
      simd::store_converted(to + e, sum, dim - e);
    }
  });
}

template <class T, int kCount>
void backward(const GatedSumBackwardParams& params) {
  using A = accumulator_t<T>;
  Rows<const T> branches[kCount];
  Rows<T> dbranches[kCount];
  for (int c = 0; c < kCount; ++c) {
    branches[c] = Rows<const T>(params.branches[c]);
    dbranches[c] = Rows<T>(params.dbranches[c]);
  }
  const Rows<const T> logits(params.logits), dy(params.dy);
  const Rows<T> dlogits(params.dlogits);
  const A* const bias = params.bias.defined() ? params.bias.data<A>() : nullptr;
  const int64_t dim = params.dy.size(3);
  for_each_row<T>(params, [&](int64_t b, int64_t t, int64_t h) {
    const Gates<T, kCount> gates(logits.at(b, t, h), bias != nullptr ? bias + h * kCount : bias);
    const T* from[kCount];
    T* to[kCount];
    for (int c = 0; c < kCount; ++c) {
      from[c] = branches[c].at(b, t, h);
      to[c] = dbranches[c].at(b, t, h);
    }
    const T* const grad = dy.at(b, t, h);
    Vec<A> products[kCount] = {};
    for (int64_t e = 0; e < dim; e += kLanes<A>) {
      const Vec<A> d = simd::load_converted<A>(grad + e, dim - e);
      for (int c = 0; c < kCount; ++c) {
        products[c] += d * simd::load_converted<A>(from[c] + e, dim - e);
        simd::store_converted(to[c] + e, gates.value[c] * d, dim - e);
      }
    }
    for (int c = 0; c < kCount; ++c) {
      const A g = gates.value[c];
      dlogits.at(b, t, h)[c] = T(g * (A{1} - g) * simd::sum<A>(products[c]));
    }
  });
}

/// Calls body.template operator()<T, C>().
template <class Body>
void dispatch(const GatedSumParams& params, const char* op, const Body& body) {
  dispatch_floating(params.logits.dtype(), op, [&]<class T>() {
    static_assert(kMaxGatedBranches == 4);
    switch (params.branches.size()) {
      case 1:
        return body.template operator()<T, 1>();
      case 2:
        return body.template operator()<T, 2>();
      case 3:
        return body.template operator()<T, 3>();
      default:
        return body.template operator()<T, 4>();
    }
  });
}

}  // namespace

void gated_sum_forward_cpu(const GatedSumParams& params, Stream /*stream*/) {
  dispatch(params, "gated_sum", [&]<class T, int kCount>() { forward<T, kCount>(params); });
}

void gated_sum_backward_cpu(const GatedSumBackwardParams& params, Stream /*stream*/) {
  dispatch(params, "gated_sum_backward",
           [&]<class T, int kCount>() { backward<T, kCount>(params); });
}

}  // namespace weft::attention
