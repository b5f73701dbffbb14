// A thread has one channel of one result and walks over the tokens of its block, or over the blocks
// of its token; neighbouring threads have neighbouring channels.
#include "kernels/block_pool_kernels.h"
#include "kernels/cuda_types.cuh"
#include "kernels/head_rows_cuda.cuh"

namespace weft::attention {
namespace {

using namespace gpu;

constexpr int kThreads = 256;

struct Arguments {
  HeadRows x;    // [B, T, H, D]: x, or the gradient of x
  void* blocks;  // [B, Nc, H, D or l D], dense: y or z, or their gradient
  const void* weights = nullptr;
  int64_t weight_row = 0;        // 0 where all heads share one
  const void* addend = nullptr;  // bias or positions
  void* dweights = nullptr;
  int64_t batch, tokens, count, heads, dim, block, stride;
};

Arguments make_arguments(const BlockShape& shape, const Tensor& x, const Tensor& blocks) {
  return {.x = rows_of(x),
          .blocks = blocks.raw_data(),
          .batch = x.size(0),
          .tokens = x.size(1),
          .count = blocks.size(1),
          .heads = x.size(2),
          .dim = x.size(3),
          .block = shape.block,
          .stride = shape.stride};
}

__device__ int64_t thread_index() {
  return blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
}

/// Blocks [first, last) that hold a token.
__device__ void blocks_of(const Arguments& a, int64_t token, int64_t& first, int64_t& last) {
  first = token < a.block ? 0 : (token - a.block) / a.stride + 1;
  last = token / a.stride + 1;
  last = last < a.count ? last : a.count;
}

template <class T>
__global__ void __launch_bounds__(kThreads) pool_kernel(const Arguments a) {
  using A = sum_t<T>;
  const int64_t index = thread_index();
  if (index >= a.batch * a.count * a.heads * a.dim) return;
  const int64_t e = index % a.dim, h = index / a.dim % a.heads;
  const int64_t i = index / a.dim / a.heads % a.count, b = index / a.dim / a.heads / a.count;
  const A* const w = static_cast<const A*>(a.weights) + h * a.weight_row;
  const T* const from = a.x.at<T>(b, i * a.stride, h) + e;
  A sum = a.addend != nullptr ? static_cast<const A*>(a.addend)[h * a.dim + e] : A(0);
  for (int64_t m = 0; m < a.block; ++m) sum += w[m] * widen(from[m * a.x.row_stride]);
  static_cast<T*>(a.blocks)[index] = narrow<T>(sum);
}

template <class T>
__global__ void __launch_bounds__(kThreads) pool_backward_kernel(const Arguments a) {
  using A = sum_t<T>;
  const int64_t index = thread_index();
  if (index >= a.batch * a.tokens * a.heads * a.dim) return;
  const int64_t e = index % a.dim, h = index / a.dim % a.heads;
  const int64_t s = index / a.dim / a.heads % a.tokens, b = index / a.dim / a.heads / a.tokens;
  const A* const w = static_cast<const A*>(a.weights) + h * a.weight_row;
  const T* const dy = static_cast<const T*>(a.blocks) + (b * a.count * a.heads + h) * a.dim + e;
  int64_t first, last;
  blocks_of(a, s, first, last);
  A sum = 0;
  for (int64_t i = first; i < last; ++i)
    sum += w[s - i * a.stride] * widen(dy[i * a.heads * a.dim]);
  a.x.at<T>(b, s, h)[e] = narrow<T>(sum);
}

/// A block of threads has the sum over all blocks of one weight of one head.
template <class T>
__global__ void __launch_bounds__(kThreads) pool_weights_kernel(const Arguments a) {
  using A = sum_t<T>;
  __shared__ A sums[kThreads / 32];
  const int64_t h = blockIdx.x / a.block, m = blockIdx.x % a.block;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  A sum = 0;
  for (int64_t at = warp; at < a.batch * a.count; at += kThreads / 32) {
    const T* const dy = static_cast<const T*>(a.blocks) + (at * a.heads + h) * a.dim;
    const T* const x = a.x.at<T>(at / a.count, at % a.count * a.stride + m, h);
    for (int64_t e = lane; e < a.dim; e += 32) sum += widen(dy[e]) * widen(x[e]);
  }
  sum = warp_sum(sum);
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kThreads / 32; ++w) sum += sums[w];
  static_cast<A*>(a.dweights)[h * a.block + m] = sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads) unfold_kernel(const Arguments a) {
  using A = sum_t<T>;
  const int64_t width = a.block * a.dim, index = thread_index();
  if (index >= a.batch * a.count * a.heads * width) return;
  const int64_t place = index % width, h = index / width % a.heads;
  const int64_t i = index / width / a.heads % a.count, b = index / width / a.heads / a.count;
  const int64_t m = place / a.dim, e = place % a.dim;
  const T x = a.x.at<T>(b, i * a.stride + m, h)[e];
  static_cast<T*>(a.blocks)[index] =
      a.addend == nullptr
          ? x
          : narrow<T>(widen(x) + static_cast<const A*>(a.addend)[h * width + place]);
}

template <class T>
__global__ void __launch_bounds__(kThreads) unfold_backward_kernel(const Arguments a) {
  using A = sum_t<T>;
  const int64_t index = thread_index();
  if (index >= a.batch * a.tokens * a.heads * a.dim) return;
  const int64_t e = index % a.dim, h = index / a.dim % a.heads;
  const int64_t s = index / a.dim / a.heads % a.tokens, b = index / a.dim / a.heads / a.tokens;
  const T* const dz = static_cast<const T*>(a.blocks) + e;
  int64_t first, last;
  blocks_of(a, s, first, last);
  A sum = 0;
  for (int64_t i = first; i < last; ++i)
    sum += widen(dz[(((b * a.count + i) * a.heads + h) * a.block + s - i * a.stride) * a.dim]);
  a.x.at<T>(b, s, h)[e] = narrow<T>(sum);
}

void run(const char* op, void (*kernel)(Arguments), int64_t threads, const Arguments& a,
         Stream stream) {
  const unsigned blocks = grid_size(op, ceil_div(threads, kThreads));
  launch(op, stream, {blocks, kThreads}, kernel, a);
}

}  // namespace

void block_pool_forward_cuda(const BlockPoolParams& params, Stream stream) {
  constexpr const char* kOp = "block_pool";
  Arguments a = make_arguments(params.shape, params.x, params.y);
  a.weights = params.weights.raw_data();
  a.weight_row = params.weights.size(0) == 1 ? 0 : a.block;
  if (params.bias.defined()) a.addend = params.bias.raw_data();
  dispatch_native(params.x.dtype(), kOp,
                  [&]<class T>() { run(kOp, pool_kernel<T>, params.y.numel(), a, stream); });
}

void block_pool_backward_cuda(const BlockPoolBackwardParams& params, Stream stream) {
  constexpr const char* kOp = "block_pool_backward";
  dispatch_native(params.dy.dtype(), kOp, [&]<class T>() {
    if (params.dx.defined()) {
      Arguments a = make_arguments(params.shape, params.dx, params.dy);
      a.weights = params.weights.raw_data();
      a.weight_row = params.weights.size(0) == 1 ? 0 : a.block;
      run(kOp, pool_backward_kernel<T>, params.dx.numel(), a, stream);
    }
    if (params.dweights.defined()) {
      Arguments a = make_arguments(params.shape, params.x, params.dy);
      a.dweights = params.dweights.raw_data();
      run(kOp, pool_weights_kernel<T>, a.heads * a.block * kThreads, a, stream);
    }
  });
}

void block_unfold_forward_cuda(const BlockUnfoldParams& params, Stream stream) {
  constexpr const char* kOp = "block_unfold";
  Arguments a = make_arguments(params.shape, params.x, params.z);
  if (params.positions.defined()) a.addend = params.positions.raw_data();
  dispatch_native(params.x.dtype(), kOp,
                  [&]<class T>() { run(kOp, unfold_kernel<T>, params.z.numel(), a, stream); });
}

void block_unfold_backward_cuda(const BlockUnfoldParams& params, Stream stream) {
  constexpr const char* kOp = "block_unfold_backward";
  const Arguments a = make_arguments(params.shape, params.x, params.z);
  dispatch_native(params.x.dtype(), kOp, [&]<class T>() {
    run(kOp, unfold_backward_kernel<T>, params.x.numel(), a, stream);
  });
}

}  // namespace weft::attention
