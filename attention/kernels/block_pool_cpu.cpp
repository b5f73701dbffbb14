// Rows of one token lie side by side or a fixed stride apart, so every kernel is a run over the
// channels of one head with the tokens of a block (or the blocks of a token) inside: the sums stay
// in registers and no element is written twice.
#include <algorithm>
#include <utility>
#include <vector>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "kernels/block_pool_kernels.h"
#include "kernels/simd.h"
#include "kernels/simd_rows.h"

namespace weft::attention {
namespace {

using simd::kLanes;
using simd::Vec;

/// Vectors summed at a time: 64 floats of the widest registers.
constexpr int kGroup = 4;

/// About this many elements make a chunk of work.
constexpr int64_t kGrainElements = 1 << 14;

int64_t grain_of(int64_t elements_of_one) {
  return std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, elements_of_one));
}

/// to[c] = start[c] + sum over m < rows of weight(m) from[m stride + c], c < columns; `start` may
/// be null.
template <class T, class Weight>
void weighted_rows(const T* from, int64_t stride, int64_t rows, int64_t columns,
                   const Weight& weight, const accumulator_t<T>* start, T* to) {
  using A = accumulator_t<T>;
  constexpr int64_t n = kLanes<A>;
  int64_t c = 0;
  for (; c + kGroup * n <= columns; c += kGroup * n) {
    Vec<A> sums[kGroup];
    for (int g = 0; g < kGroup; ++g)
      sums[g] = start != nullptr ? simd::load(start + c + g * n) : Vec<A>{};
    for (int64_t m = 0; m < rows; ++m) {
      const A w = weight(m);
      const T* const row = from + m * stride + c;
      for (int g = 0; g < kGroup; ++g) sums[g] += w * simd::load_converted<A>(row + g * n, n);
    }
    for (int g = 0; g < kGroup; ++g) simd::store_converted(to + c + g * n, sums[g], n);
  }
  for (; c < columns; c += n) {
    Vec<A> total = start != nullptr ? simd::load_converted<A>(start + c, columns - c) : Vec<A>{};
    for (int64_t m = 0; m < rows; ++m)
      total += weight(m) * simd::load_converted<A>(from + m * stride + c, columns - c);
    simd::store_converted(to + c, total, columns - c);
  }
}

template <class T>
accumulator_t<T> dot(const T* a, const T* b, int64_t count) {
  using A = accumulator_t<T>;
  Vec<A> total{};
  for (int64_t c = 0; c < count; c += kLanes<A>)
    total += simd::load_converted<A>(a + c, count - c) * simd::load_converted<A>(b + c, count - c);
  return simd::sum<A>(total);
}

/// Blocks [first, last) of `count` that token s lies in.
struct BlockRange {
  int64_t first, last;
  BlockRange(const BlockShape& shape, int64_t count, int64_t token)
      : first(token < shape.block ? 0 : (token - shape.block) / shape.stride + 1),
        last(std::min(count, token / shape.stride + 1)) {
    first = std::min(first, last);
  }
  int64_t size() const { return last - first; }
};

template <class T>
void pool_forward(const BlockPoolParams& params) {
  using A = accumulator_t<T>;
  const auto [block, stride] = params.shape;
  const Tensor& x = params.x;
  const int64_t blocks = params.y.size(1), heads = x.size(2), dim = x.size(3);
  const int64_t x_batch = x.stride(0), x_row = x.stride(1), x_head = x.stride(2);
  const int64_t weight_row = params.weights.size(0) == 1 ? 0 : block;
  const T* const from = x.data<T>();
  const A* const weights = params.weights.data<A>();
  const A* const bias = params.bias.defined() ? params.bias.data<A>() : nullptr;
  T* const to = static_cast<T*>(params.y.raw_data());
  parallel_for(0, x.size(0) * blocks, grain_of(heads * dim * block),
               [&, block = block, stride = stride](int64_t begin, int64_t end) {
                 for (int64_t at = begin; at < end; ++at) {
                   const T* const first =
                       from + at / blocks * x_batch + at % blocks * stride * x_row;
                   for (int64_t h = 0; h < heads; ++h) {
                     const A* const w = weights + h * weight_row;
                     weighted_rows(
                         first + h * x_head, x_row, block, dim, [&](int64_t m) { return w[m]; },
                         bias != nullptr ? bias + h * dim : nullptr, to + (at * heads + h) * dim);
                   }
                 }
               });
}

template <class T>
void pool_backward_input(const BlockPoolBackwardParams& params) {
  using A = accumulator_t<T>;
  const auto [block, stride] = params.shape;
  const int64_t tokens = params.dx.size(1), blocks = params.dy.size(1);
  const int64_t heads = params.dy.size(2), dim = params.dy.size(3);
  const int64_t weight_row = params.weights.size(0) == 1 ? 0 : block;
  const T* const dy = params.dy.data<T>();
  const A* const weights = params.weights.data<A>();
  T* const dx = static_cast<T*>(params.dx.raw_data());
  const int64_t dx_batch = params.dx.stride(0), dx_row = params.dx.stride(1),
                dx_head = params.dx.stride(2);
  parallel_for(
      0, params.dx.size(0) * tokens, grain_of(heads * dim),
      [&, stride = stride](int64_t begin, int64_t end) {
        for (int64_t at = begin; at < end; ++at) {
          const int64_t b = at / tokens, s = at % tokens;
          const BlockRange range(params.shape, blocks, s);
          for (int64_t h = 0; h < heads; ++h) {
            const A* const w = weights + h * weight_row;
            weighted_rows(
                dy + ((b * blocks + range.first) * heads + h) * dim, heads * dim, range.size(), dim,
                [&](int64_t i) { return w[s - (range.first + i) * stride]; },
                static_cast<const A*>(nullptr), dx + b * dx_batch + s * dx_row + h * dx_head);
          }
        }
      });
}

/// Blocks whose sums are taken together. Fixed, so that sums do not depend on the threads.
constexpr int64_t kSumBlocks = 32;

template <class T>
void pool_backward_weights(const BlockPoolBackwardParams& params) {
  using A = accumulator_t<T>;
  const auto [block, stride] = params.shape;
  const Tensor& x = params.x;
  const int64_t blocks = params.dy.size(1), heads = x.size(2), dim = x.size(3);
  const int64_t x_batch = x.stride(0), x_row = x.stride(1), x_head = x.stride(2);
  const T* const dy = params.dy.data<T>();
  const T* const rows = x.data<T>();
  const int64_t total = x.size(0) * blocks;
  const int64_t chunks = (total + kSumBlocks - 1) / kSumBlocks;
  std::vector<A> partial(static_cast<size_t>(chunks * heads * block), A{0});
  parallel_for(0, chunks, 1, [&, block = block, stride = stride](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      A* const sums = partial.data() + chunk * heads * block;
      for (int64_t at = chunk * kSumBlocks; at < std::min(total, (chunk + 1) * kSumBlocks); ++at) {
        const T* const first = rows + at / blocks * x_batch + at % blocks * stride * x_row;
        for (int64_t h = 0; h < heads; ++h) {
          for (int64_t m = 0; m < block; ++m) {
            sums[h * block + m] +=
                dot(dy + (at * heads + h) * dim, first + m * x_row + h * x_head, dim);
          }
        }
      }
    }
  });
  A* const dweights = static_cast<A*>(params.dweights.raw_data());
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int64_t i = 0; i < heads * block; ++i) dweights[i] += partial[chunk * heads * block + i];
  }
}

template <class T>
void unfold_forward(const BlockUnfoldParams& params) {
  using A = accumulator_t<T>;
  const auto [block, stride] = params.shape;
  const Tensor& x = params.x;
  const int64_t blocks = params.z.size(1), heads = x.size(2), dim = x.size(3);
  const int64_t x_batch = x.stride(0), x_row = x.stride(1), x_head = x.stride(2);
  const T* const from = x.data<T>();
  const A* const positions = params.positions.defined() ? params.positions.data<A>() : nullptr;
  T* const z = static_cast<T*>(params.z.raw_data());
  parallel_for(0, x.size(0) * blocks, grain_of(heads * block * dim),
               [&, block = block, stride = stride](int64_t begin, int64_t end) {
                 for (int64_t at = begin; at < end; ++at) {
                   const T* const first =
                       from + at / blocks * x_batch + at % blocks * stride * x_row;
                   for (int64_t row = 0; row < heads * block; ++row) {
                     const int64_t h = row / block, m = row % block;
                     weighted_rows(
                         first + m * x_row + h * x_head, 0, 1, dim, [](int64_t) { return A{1}; },
                         positions != nullptr ? positions + row * dim : nullptr,
                         z + (at * heads * block + row) * dim);
                   }
                 }
               });
}

template <class T>
void unfold_backward(const BlockUnfoldParams& params) {
  using A = accumulator_t<T>;
  const auto [block, stride] = params.shape;
  const Tensor& dx = params.x;
  const int64_t tokens = dx.size(1), blocks = params.z.size(1);
  const int64_t heads = dx.size(2), dim = dx.size(3);
  const T* const dz = params.z.data<T>();
  T* const to = static_cast<T*>(dx.raw_data());
  const int64_t dx_batch = dx.stride(0), dx_row = dx.stride(1), dx_head = dx.stride(2);
  parallel_for(0, dx.size(0) * tokens, grain_of(heads * dim),
               [&, block = block, stride = stride](int64_t begin, int64_t end) {
                 for (int64_t at = begin; at < end; ++at) {
                   const int64_t b = at / tokens, s = at % tokens;
                   const BlockRange range(params.shape, blocks, s);
                   for (int64_t h = 0; h < heads; ++h) {
                     // Row s - i stride of block i; the next block holds it `stride` rows earlier.
                     const int64_t first = range.size() == 0
                                               ? 0
                                               : ((b * blocks + range.first) * heads + h) * block +
                                                     s - range.first * stride;
                     weighted_rows(
                         dz + first * dim, (heads * block - stride) * dim, range.size(), dim,
                         [](int64_t) { return A{1}; }, static_cast<const A*>(nullptr),
                         to + b * dx_batch + s * dx_row + h * dx_head);
                   }
                 }
               });
}

}  // namespace

void block_pool_forward_cpu(const BlockPoolParams& params, Stream /*stream*/) {
  dispatch_floating(params.x.dtype(), "block_pool", [&]<class T>() { pool_forward<T>(params); });
}

void block_pool_backward_cpu(const BlockPoolBackwardParams& params, Stream /*stream*/) {
  dispatch_floating(params.dy.dtype(), "block_pool_backward", [&]<class T>() {
    if (params.dx.defined()) pool_backward_input<T>(params);
    if (params.dweights.defined()) pool_backward_weights<T>(params);
  });
}

void block_unfold_forward_cpu(const BlockUnfoldParams& params, Stream /*stream*/) {
  dispatch_floating(params.x.dtype(), "block_unfold",
                    [&]<class T>() { unfold_forward<T>(params); });
}

void block_unfold_backward_cpu(const BlockUnfoldParams& params, Stream /*stream*/) {
  dispatch_floating(params.x.dtype(), "block_unfold_backward",
                    [&]<class T>() { unfold_backward<T>(params); });
}

}  // namespace weft::attention
