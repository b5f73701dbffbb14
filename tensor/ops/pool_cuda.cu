// Pooling: cuDNN where pool_cudnn.h has it (means), else one thread an output (forward) or an input
// (backward), so that no two threads write one element and results repeat to the bit.
#include <algorithm>

#include "weft/tensor/dispatch.h"

#include "cuda/element.cuh"
#include "cuda/launch.cuh"
#include "ops/pool_kernels.h"
#ifdef WEFT_HAVE_CUDNN
#include "ops/pool_cudnn.h"
#endif

namespace weft {
namespace {

constexpr int kThreads = 256;

/// The sizes of one plane and its windows, as kernels take them.
struct PoolSizes {
  int64_t planes, height, width, out_height, out_width;
  int64_t kernel[2], stride[2], padding[2];
  bool count_padding;

  explicit PoolSizes(const PoolGeometry& g)
      : planes(g.planes),
        height(g.height),
        width(g.width),
        out_height(g.out_height),
        out_width(g.out_width),
        kernel{g.options.kernel[0], g.options.kernel[1]},
        stride{g.options.stride[0], g.options.stride[1]},
        padding{g.options.padding[0], g.options.padding[1]},
        count_padding(g.options.count_padding) {}
};

/// The part of an axis that a window covers.
struct Window {
  int64_t begin, end;  // within the input
  int64_t full_size;   // with padding
};

__device__ Window window_at(const PoolSizes& g, int64_t position, int axis) {
  const int64_t size = axis == 0 ? g.height : g.width;
  const int64_t start = position * g.stride[axis] - g.padding[axis];
  const int64_t stop = min(start + g.kernel[axis], size + g.padding[axis]);
  return {max(start, int64_t{0}), min(stop, size), stop - start};
}

template <class Acc>
__device__ Acc divisor(const PoolSizes& g, const Window& rows, const Window& columns) {
  return static_cast<Acc>(g.count_padding
                              ? rows.full_size * columns.full_size
                              : (rows.end - rows.begin) * (columns.end - columns.begin));
}

/// The windows [first, last] whose reach along an axis holds a position of the input.
struct WindowRange {
  int64_t first, last;
};

__device__ WindowRange windows_over(const PoolSizes& g, int64_t position, int axis) {
  const int64_t padded = position + g.padding[axis];
  const int64_t before = padded - g.kernel[axis] + 1;  // first start that reaches it
  const int64_t first = before <= 0 ? 0 : (before + g.stride[axis] - 1) / g.stride[axis];
  const int64_t count = axis == 0 ? g.out_height : g.out_width;
  return {first, min(padded / g.stride[axis], count - 1)};
}

/// Calls body(element, plane, position in the plane) for this thread's share of planes of `size`
/// elements.
template <class Body>
__device__ void for_each_element(int64_t planes, int64_t size, Body&& body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < planes * size;
       i += step)
    body(i, i / size, i % size);
}

/// Calls body(element, plane of the input, rows, columns) for this thread's windows.
template <class T, class Body>
__device__ void for_each_window(const T* in, const PoolSizes& g, Body&& body) {
  for_each_element(
      g.planes, g.out_height * g.out_width, [&](int64_t i, int64_t plane, int64_t position) {
        body(i, in + plane * g.height * g.width, window_at(g, position / g.out_width, 0),
             window_at(g, position % g.out_width, 1));
      });
}

template <class T>
__global__ void max_pool2d_kernel(const T* in, T* out, int64_t* indices, PoolSizes g) {
  using Acc = accumulator_t<T>;
  for_each_window(in, g, [&](int64_t i, const T* plane, const Window& rows, const Window& columns) {
    int64_t best = rows.begin * g.width + columns.begin;
    Acc largest = cuda::element_as<Acc>(plane[best]);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (int64_t column = columns.begin; column < columns.end; ++column) {
        const Acc value = cuda::element_as<Acc>(plane[row * g.width + column]);
        if (value > largest || (isnan(value) && !isnan(largest))) {
          largest = value;
          best = row * g.width + column;
        }
      }
    }
    out[i] = plane[best];
    if (indices != nullptr) indices[i] = best;
  });
}

/// A block takes one plane at a time. Its threads own equal runs of the input and look through the
/// outputs, a tile of them in shared memory at a time, for those that point into their run.
template <class T>
__global__ void max_pool2d_backward_kernel(const T* gradient, const int64_t* indices,
                                           accumulator_t<T>* sums, int64_t planes, int64_t out_size,
                                           int64_t in_size, cuda::Fault* fault, const char* op) {
  using Acc = accumulator_t<T>;
  __shared__ int64_t tile_indices[kThreads];
  __shared__ Acc tile_gradient[kThreads];
  const int64_t run = (in_size + kThreads - 1) / kThreads;
  const int64_t first = threadIdx.x * run;
  const int64_t last = min(first + run, in_size);
  for (int64_t plane = blockIdx.x; plane < planes; plane += gridDim.x) {
    Acc* const out = sums + plane * in_size;
    for (int64_t start = 0; start < out_size; start += kThreads) {
      const int count = static_cast<int>(min(int64_t{kThreads}, out_size - start));
      __syncthreads();
      if (threadIdx.x < count) {
        const int64_t at = plane * out_size + start + threadIdx.x;
        const int64_t index = indices[at];
        if (index < 0 || index >= in_size)
          cuda::report_fault(fault, cuda::FaultKind::index, op, index, in_size);
        tile_indices[threadIdx.x] = index;
        tile_gradient[threadIdx.x] = cuda::element_as<Acc>(gradient[at]);
      }
      __syncthreads();
      for (int i = 0; i < count; ++i) {
        const int64_t index = tile_indices[i];
        if (index >= first && index < last) out[index] += tile_gradient[i];
      }
    }
  }
}

template <class T>
__global__ void avg_pool2d_kernel(const T* in, T* out, PoolSizes g) {
  using Acc = accumulator_t<T>;
  for_each_window(in, g, [&](int64_t i, const T* plane, const Window& rows, const Window& columns) {
    Acc sum = 0;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (int64_t column = columns.begin; column < columns.end; ++column)
        sum += cuda::element_as<Acc>(plane[row * g.width + column]);
    }
    out[i] = cuda::element_as<T>(sum / divisor<Acc>(g, rows, columns));
  });
}

template <class T>
__global__ void avg_pool2d_backward_kernel(const T* gradient, T* out, PoolSizes g) {
  using Acc = accumulator_t<T>;
  for_each_element(g.planes, g.height * g.width, [&](int64_t i, int64_t plane, int64_t position) {
    const T* const dy = gradient + plane * g.out_height * g.out_width;
    const WindowRange rows = windows_over(g, position / g.width, 0);
    const WindowRange columns = windows_over(g, position % g.width, 1);
    Acc sum = 0;
    for (int64_t y = rows.first; y <= rows.last; ++y) {
      const Window row_window = window_at(g, y, 0);
      for (int64_t x = columns.first; x <= columns.last; ++x) {
        sum += cuda::element_as<Acc>(dy[y * g.out_width + x]) /
               divisor<Acc>(g, row_window, window_at(g, x, 1));
      }
    }
    out[i] = cuda::element_as<T>(sum);
  });
}

}  // namespace

void max_pool2d_cuda(const Tensor& x, Tensor& y, Tensor& indices, const PoolGeometry& geometry,
                     Stream stream) {
  dispatch_floating(x.dtype(), "max_pool2d", [&]<class T>() {
    cuda::launch("max_pool2d", stream, {cuda::blocks_for(y.numel(), kThreads), kThreads},
                 max_pool2d_kernel<T>, x.data<T>(), y.data<T>(),
                 indices.defined() ? indices.data<int64_t>() : nullptr, PoolSizes(geometry));
  });
}

void max_pool2d_backward_cuda(const Tensor& dy, const Tensor& indices, Tensor& dx, Stream stream) {
  dispatch_floating(dy.dtype(), "max_pool2d_backward", [&]<class T>() {
    using Acc = accumulator_t<T>;
    const int64_t planes = dy.size(0) * dy.size(1);
    const bool in_place = std::is_same_v<T, Acc>;
    Tensor sums = in_place ? dx : empty(dx.shape(), DType::f32, dx.device());
    sums.zero_();
    cuda::launch("max_pool2d_backward", stream,
                 {static_cast<unsigned>(std::min<int64_t>(planes, 65535)), kThreads},
                 max_pool2d_backward_kernel<T>, dy.data<T>(), indices.data<int64_t>(),
                 sums.data<Acc>(), planes, dy.size(2) * dy.size(3), dx.size(2) * dx.size(3),
                 cuda::fault_slot(stream.device()), "max_pool2d_backward");
    if (!in_place) dx.copy_(sums);
  });
}

void avg_pool2d_cuda(const Tensor& x, Tensor& y, const PoolGeometry& geometry, Stream stream) {
#ifdef WEFT_HAVE_CUDNN
  if (cuda::avg_pool2d_cudnn(x, y, geometry, stream)) return;
#endif
  dispatch_floating(x.dtype(), "avg_pool2d", [&]<class T>() {
    cuda::launch("avg_pool2d", stream, {cuda::blocks_for(y.numel(), kThreads), kThreads},
                 avg_pool2d_kernel<T>, x.data<T>(), y.data<T>(), PoolSizes(geometry));
  });
}

void avg_pool2d_backward_cuda(const Tensor& dy, Tensor& dx, const PoolGeometry& geometry,
                              Stream stream) {
#ifdef WEFT_HAVE_CUDNN
  if (cuda::avg_pool2d_backward_cudnn(dy, dx, geometry, stream)) return;
#endif
  dispatch_floating(dy.dtype(), "avg_pool2d_backward", [&]<class T>() {
    cuda::launch("avg_pool2d_backward", stream, {cuda::blocks_for(dx.numel(), kThreads), kThreads},
                 avg_pool2d_backward_kernel<T>, dy.data<T>(), dx.data<T>(), PoolSizes(geometry));
  });
}

}  // namespace weft
