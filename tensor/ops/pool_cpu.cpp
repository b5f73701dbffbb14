#include <algorithm>
#include <cmath>
#include <vector>

#include "weft/tensor/check.h"
#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/pool_kernels.h"

namespace weft {
namespace {

/// The part of an axis that a window covers.
struct Window {
  int64_t begin, end;  // within the input
  int64_t full_size;   // with padding
};

Window window_at(int64_t position, int axis, int64_t size, const Pool2dOptions& options) {
  const auto i = static_cast<size_t>(axis);
  const int64_t start = position * options.stride[i] - options.padding[i];
  const int64_t stop = std::min(start + options.kernel[i], size + options.padding[i]);
  return {std::max<int64_t>(start, 0), std::min(stop, size), stop - start};
}

/// Calls body(plane) for all planes, on all threads.
template <class Body>
void for_each_plane(int64_t planes, int64_t plane_work, Body&& body) {
  parallel_for(0, planes, std::max<int64_t>(1, 16384 / std::max<int64_t>(plane_work, 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t plane = begin; plane < end; ++plane) body(plane);
               });
}

/// Calls body(position, rows, columns) for all windows of a plane.
template <class Body>
void for_each_window(const PoolGeometry& g, Body&& body) {
  for (int64_t y = 0; y < g.out_height; ++y) {
    const Window rows = window_at(y, 0, g.height, g.options);
    for (int64_t x = 0; x < g.out_width; ++x)
      body(y * g.out_width + x, rows, window_at(x, 1, g.width, g.options));
  }
}

template <class Acc>
Acc divisor(const PoolGeometry& g, const Window& rows, const Window& columns) {
  const int64_t count = g.options.count_padding
                            ? rows.full_size * columns.full_size
                            : (rows.end - rows.begin) * (columns.end - columns.begin);
  return static_cast<Acc>(count);
}

}  // namespace

void max_pool2d_cpu(const Tensor& x, Tensor& y, Tensor& indices, const PoolGeometry& geometry,
                    Stream /*stream*/) {
  const PoolGeometry& g = geometry;
  const int64_t out_size = g.out_height * g.out_width;
  int64_t* const index_data = indices.defined() ? indices.data<int64_t>() : nullptr;
  dispatch_floating(x.dtype(), "max_pool2d", [&]<class T>() {
    using Acc = accumulator_t<T>;
    const T* const in_data = x.data<T>();
    T* const out_data = y.data<T>();
    for_each_plane(g.planes, g.height * g.width, [&](int64_t plane) {
      const T* const in = in_data + plane * g.height * g.width;
      for_each_window(g, [&](int64_t position, const Window& rows, const Window& columns) {
        int64_t best = rows.begin * g.width + columns.begin;
        Acc largest = static_cast<Acc>(in[best]);
        for (int64_t row = rows.begin; row < rows.end; ++row) {
          for (int64_t column = columns.begin; column < columns.end; ++column) {
            const Acc value = static_cast<Acc>(in[row * g.width + column]);
            if (value > largest || (std::isnan(value) && !std::isnan(largest))) {
              largest = value;
              best = row * g.width + column;
            }
          }
        }
        out_data[plane * out_size + position] = in[best];
        if (index_data != nullptr) index_data[plane * out_size + position] = best;
      });
    });
  });
}

void max_pool2d_backward_cpu(const Tensor& dy, const Tensor& indices, Tensor& dx,
                             Stream /*stream*/) {
  const int64_t out_size = dy.size(2) * dy.size(3), in_size = dx.size(2) * dx.size(3);
  const int64_t* const index_data = indices.data<int64_t>();
  dispatch_floating(dy.dtype(), "max_pool2d_backward", [&]<class T>() {
    using Acc = accumulator_t<T>;
    const T* const gradient = dy.data<T>();
    T* const out = dx.data<T>();
    for_each_plane(dy.size(0) * dy.size(1), in_size, [&](int64_t plane) {
      std::vector<Acc> sums(static_cast<size_t>(in_size), Acc(0));
      for (int64_t i = plane * out_size; i < (plane + 1) * out_size; ++i) {
        const int64_t index = index_data[i];
        WEFT_CHECK(index >= 0 && index < in_size, IndexError,
                   "max_pool2d_backward: index {} outside a plane of {} elements", index, in_size);
        sums[static_cast<size_t>(index)] += static_cast<Acc>(gradient[i]);
      }
      for (int64_t i = 0; i < in_size; ++i)
        out[plane * in_size + i] = static_cast<T>(sums[static_cast<size_t>(i)]);
    });
  });
}

void avg_pool2d_cpu(const Tensor& x, Tensor& y, const PoolGeometry& geometry, Stream /*stream*/) {
  const PoolGeometry& g = geometry;
  const int64_t out_size = g.out_height * g.out_width;
  dispatch_floating(x.dtype(), "avg_pool2d", [&]<class T>() {
    using Acc = accumulator_t<T>;
    const T* const in_data = x.data<T>();
    T* const out_data = y.data<T>();
    for_each_plane(g.planes, g.height * g.width, [&](int64_t plane) {
      const T* const in = in_data + plane * g.height * g.width;
      for_each_window(g, [&](int64_t position, const Window& rows, const Window& columns) {
        Acc sum = 0;
        for (int64_t row = rows.begin; row < rows.end; ++row) {
          for (int64_t column = columns.begin; column < columns.end; ++column)
            sum += static_cast<Acc>(in[row * g.width + column]);
        }
        out_data[plane * out_size + position] =
            static_cast<T>(sum / divisor<Acc>(g, rows, columns));
      });
    });
  });
}

void avg_pool2d_backward_cpu(const Tensor& dy, Tensor& dx, const PoolGeometry& geometry,
                             Stream /*stream*/) {
  const PoolGeometry& g = geometry;
  const int64_t out_size = g.out_height * g.out_width, in_size = g.height * g.width;
  dispatch_floating(dy.dtype(), "avg_pool2d_backward", [&]<class T>() {
    using Acc = accumulator_t<T>;
    const T* const gradient = dy.data<T>();
    T* const out = dx.data<T>();
    for_each_plane(g.planes, in_size, [&](int64_t plane) {
      std::vector<Acc> sums(static_cast<size_t>(in_size), Acc(0));
      for_each_window(g, [&](int64_t position, const Window& rows, const Window& columns) {
        const Acc share = static_cast<Acc>(gradient[plane * out_size + position]) /
                          divisor<Acc>(g, rows, columns);
        for (int64_t row = rows.begin; row < rows.end; ++row) {
          for (int64_t column = columns.begin; column < columns.end; ++column)
            sums[static_cast<size_t>(row * g.width + column)] += share;
        }
      });
      for (int64_t i = 0; i < in_size; ++i)
        out[plane * in_size + i] = static_cast<T>(sums[static_cast<size_t>(i)]);
    });
  });
}

}  // namespace weft
