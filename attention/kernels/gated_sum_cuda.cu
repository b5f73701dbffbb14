// One warp has one row (b, t, h): its gates are computed once, its channels lie along the lanes.
#include "weft/attention/kernels/gated_sum.h"

#include "kernels/cuda_types.cuh"
#include "kernels/gated_sum_kernels.h"
#include "kernels/head_rows_cuda.cuh"

namespace weft::attention {
namespace {

using namespace gpu;

constexpr int kThreads = 256;

struct Arguments {
  HeadRows branches[kMaxGatedBranches], dbranches[kMaxGatedBranches];
  HeadRows logits, y, dy, dlogits;
  const void* bias;
  int64_t rows, tokens, heads;
  int dim;
};

Arguments make_arguments(const GatedSumParams& p) {
  Arguments a{};
  for (size_t c = 0; c < p.branches.size(); ++c) a.branches[c] = rows_of(p.branches[c]);
  a.logits = rows_of(p.logits);
  a.bias = p.bias.defined() ? p.bias.raw_data() : nullptr;
  const Tensor& like = p.branches.front();
  a.tokens = like.size(1);
  a.heads = like.size(2);
  a.rows = like.size(0) * a.tokens * a.heads;
  a.dim = static_cast<int>(like.size(3));
  return a;
}

template <class T, int kCount, bool kBackward>
__global__ void __launch_bounds__(kThreads) gated_sum_kernel(const Arguments a) {
  using A = sum_t<T>;
  const int64_t row = (blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x) / 32;
  if (row >= a.rows) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t h = row % a.heads, t = row / a.heads % a.tokens, b = row / a.heads / a.tokens;
  A gates[kCount];
  const T* from[kCount];
  const T* const logits = a.logits.at<T>(b, t, h);
  const A* const bias = static_cast<const A*>(a.bias);
#pragma unroll
  for (int c = 0; c < kCount; ++c) {
    const A logit = widen(logits[c]) + (bias != nullptr ? bias[h * kCount + c] : A(0));
    gates[c] = A(1) / (A(1) + exp(-logit));
    from[c] = a.branches[c].at<T>(b, t, h);
  }
  if constexpr (!kBackward) {
    T* const y = a.y.at<T>(b, t, h);
    for (int e = lane; e < a.dim; e += 32) {
      A sum = 0;
#pragma unroll
      for (int c = 0; c < kCount; ++c) sum += gates[c] * widen(from[c][e]);
      y[e] = narrow<T>(sum);
    }
  } else {
    A products[kCount] = {};
    T* to[kCount];
#pragma unroll
    for (int c = 0; c < kCount; ++c) to[c] = a.dbranches[c].at<T>(b, t, h);
    const T* const dy = a.dy.at<T>(b, t, h);
    for (int e = lane; e < a.dim; e += 32) {
      const A d = widen(dy[e]);
#pragma unroll
      for (int c = 0; c < kCount; ++c) {
        products[c] += d * widen(from[c][e]);
        to[c][e] = narrow<T>(gates[c] * d);
      }
    }
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      const A product = warp_sum(products[c]);
      if (lane == 0)
        a.dlogits.at<T>(b, t, h)[c] = narrow<T>(gates[c] * (A(1) - gates[c]) * product);
    }
  }
}

template <bool kBackward>
void run(const char* op, const GatedSumParams& params, const Arguments& a, Stream stream) {
  const unsigned blocks = grid_size(op, ceil_div(a.rows * 32, kThreads));
  dispatch_native(params.logits.dtype(), op, [&]<class T>() {
    static_assert(kMaxGatedBranches == 4);
    switch (params.branches.size()) {
      case 1:
        return launch(op, stream, {blocks, kThreads}, gated_sum_kernel<T, 1, kBackward>, a);
      case 2:
        return launch(op, stream, {blocks, kThreads}, gated_sum_kernel<T, 2, kBackward>, a);
      case 3:
        return launch(op, stream, {blocks, kThreads}, gated_sum_kernel<T, 3, kBackward>, a);
      default:
        return launch(op, stream, {blocks, kThreads}, gated_sum_kernel<T, 4, kBackward>, a);
    }
  });
}

}  // namespace

void gated_sum_forward_cuda(const GatedSumParams& params, Stream stream) {
  Arguments a = make_arguments(params);
  a.y = rows_of(params.y);
  run<false>("gated_sum", params, a, stream);
}

void gated_sum_backward_cuda(const GatedSumBackwardParams& params, Stream stream) {
  Arguments a = make_arguments(params);
  a.dy = rows_of(params.dy);
  a.dlogits = rows_of(params.dlogits);
  for (size_t c = 0; c < params.dbranches.size(); ++c)
    a.dbranches[c] = rows_of(params.dbranches[c]);
  run<true>("gated_sum_backward", params, a, stream);
}

}  // namespace weft::attention
