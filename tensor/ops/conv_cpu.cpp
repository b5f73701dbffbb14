// Convolution as a matrix product: the patches of the input that meet the kernel become the columns
// of a matrix [taps, positions] (im2col), a block of output rows at a time so that it stays small.
// Depthwise filters, of which the product would be a single row, have their own loops in
// depthwise_conv_cpu.cpp.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/parallel.h"

#include "ops/conv_kernels.h"
#include "ops/conv_taps.h"
#include "ops/depthwise_conv.h"
#include "ops/gemm.h"

namespace weft {
namespace {

/// Elements of the matrix of columns: what fits in the cache next to a core.
constexpr int64_t kColumnElements = int64_t{1} << 19;

/// The columns are the input itself.
bool is_pointwise(const ConvGeometry& g) {
  return g.kernel_height == 1 && g.kernel_width == 1 &&
         g.options.stride == std::array<int64_t, 2>{1, 1} &&
         g.options.padding == std::array<int64_t, 2>{0, 0};
}

/// Output rows of one block.
int64_t block_rows(const ConvGeometry& g) {
  if (is_pointwise(g)) return g.out_height;
  return std::clamp<int64_t>(kColumnElements / (g.taps() * g.out_width), 1, g.out_height);
}

Tensor make_columns(const ConvGeometry& g, DType dtype) {
  return empty({g.taps(), block_rows(g) * g.out_width}, dtype);
}

/// A matrix of elements that follow each other from `offset` on, rows `stride` apart.
Tensor matrix_at(const Tensor& tensor, int64_t offset, int64_t rows, int64_t columns,
                 int64_t stride) {
  return {tensor.storage(), Layout{{rows, columns}, {stride, 1}, tensor.offset() + offset},
          tensor.dtype()};
}

/// Rows [first, first + count) of group `group` of image `image` of y: [O / groups, positions].
Tensor output_block(const Tensor& y, const ConvGeometry& g, int64_t image, int64_t group,
                    int64_t first, int64_t count) {
  const int64_t channel = image * g.out_channels + group * g.group_out_channels();
  return matrix_at(y, channel * g.out_size() + first * g.out_width, g.group_out_channels(),
                   count * g.out_width, g.out_size());
}

Tensor group_weight(const Tensor& weight, const ConvGeometry& g, int64_t group) {
  return matrix_at(weight, group * g.group_out_channels() * g.taps(), g.group_out_channels(),
                   g.taps(), g.taps());
}

int64_t input_offset(const ConvGeometry& g, int64_t image, int64_t group) {
  return (image * g.channels + group * g.group_channels()) * g.height * g.width;
}

/// Fills columns [taps, count * out_width] from the planes of a group.
template <class T>
void gather_columns(const T* planes, const ConvGeometry& g, int64_t first, int64_t count,
                    T* columns) {
  const int64_t positions = count * g.out_width;
  parallel_for(0, g.taps(), std::max<int64_t>(1, 16384 / positions), [&](int64_t from, int64_t to) {
    for (int64_t tap = from; tap < to; ++tap) {
      const TapView view(g, tap);
      const T* const plane = planes + view.channel * g.height * g.width;
      T* row = columns + tap * positions;
      for (int64_t y = first; y < first + count; ++y, row += g.out_width) {
        const int64_t input_y = view.input_row(g, y);
        if (input_y < 0 || input_y >= g.height) {
          std::fill_n(row, g.out_width, T{});
          continue;
        }
        const int64_t source = input_y * g.width + view.first_column;  // of x = 0; may lie outside
        std::fill(row, row + view.begin, T{});
        if (g.options.stride[1] == 1) {
          std::memcpy(row + view.begin, plane + source + view.begin,
                      static_cast<size_t>(view.end - view.begin) * sizeof(T));
        } else {
          for (int64_t x = view.begin; x < view.end; ++x)
            row[x] = plane[source + x * g.options.stride[1]];
        }
        std::fill(row + view.end, row + g.out_width, T{});
      }
    }
  });
}

/// Adds columns to the planes of a group that they were gathered from.
template <class Acc>
void scatter_columns(const Acc* columns, const ConvGeometry& g, int64_t first, int64_t count,
                     Acc* planes) {
  const int64_t positions = count * g.out_width;
  const int64_t kernel = g.kernel_height * g.kernel_width;
  parallel_for(0, g.group_channels(), std::max<int64_t>(1, 16384 / (positions * kernel)),
               [&](int64_t from, int64_t to) {
                 for (int64_t tap = from * kernel; tap < to * kernel; ++tap) {
                   const TapView view(g, tap);
                   Acc* const plane = planes + view.channel * g.height * g.width;
                   const Acc* row = columns + tap * positions;
                   for (int64_t y = first; y < first + count; ++y, row += g.out_width) {
                     const int64_t input_y = view.input_row(g, y);
                     if (input_y < 0 || input_y >= g.height) continue;
                     const int64_t target = input_y * g.width + view.first_column;
                     const int64_t stride = g.options.stride[1];
                     if (stride == 1) {
                       for (int64_t x = view.begin; x < view.end; ++x) plane[target + x] += row[x];
                     } else {
                       for (int64_t x = view.begin; x < view.end; ++x)
                         plane[target + x * stride] += row[x];
                     }
                   }
                 }
               });
}

/// The columns of a block: gathered into `scratch`, or the input itself.
Tensor columns_of(const Tensor& x, const ConvGeometry& g, int64_t image, int64_t group,
                  int64_t first, int64_t count, Tensor& scratch) {
  const int64_t offset = input_offset(g, image, group);
  const int64_t positions = count * g.out_width;
  if (is_pointwise(g))
    return matrix_at(x, offset + first * g.out_width, g.taps(), positions, g.out_size());
  dispatch_floating(x.dtype(), "conv2d", [&]<class T>() {
    gather_columns(x.data<T>() + offset, g, first, count, scratch.data<T>());
  });
  return matrix_at(scratch, 0, g.taps(), positions, positions);
}

/// Calls body(group, first_row, rows) for all blocks of an image.
template <class Body>
void for_each_block(const ConvGeometry& g, Body&& body) {
  const int64_t rows = block_rows(g);
  for (int64_t group = 0; group < g.options.groups; ++group) {
    for (int64_t first = 0; first < g.out_height; first += rows)
      body(group, first, std::min(rows, g.out_height - first));
  }
}

/// Calls body(begin, end) for ranges of images: a thread an image where there are enough, otherwise
/// all threads work on each.
template <class Body>
void for_image_ranges(int64_t images, Body&& body) {
  if (images >= num_threads()) {
    parallel_for(0, images, 1, body);
  } else {
    body(0, images);
  }
}

}  // namespace

void conv2d_forward_cpu(const Tensor& x, const Tensor& weight, Tensor& y,
                        const ConvGeometry& geometry, Stream stream) {
  const ConvGeometry& g = geometry;
  if (g.is_depthwise()) return depthwise_forward_cpu(x, weight, y, g);
  for_image_ranges(g.batch, [&](int64_t begin, int64_t end) {
    Tensor scratch = make_columns(g, x.dtype());
    for (int64_t image = begin; image < end; ++image) {
      for_each_block(g, [&](int64_t group, int64_t first, int64_t count) {
        const Tensor columns = columns_of(x, g, image, group, first, count, scratch);
        Tensor block = output_block(y, g, image, group, first, count);
        gemm_cpu(group_weight(weight, g, group), columns, block, {.beta = 1}, stream);
      });
    }
  });
}

void conv2d_backward_input_cpu(const Tensor& dy, const Tensor& weight, Tensor& dx,
                               const ConvGeometry& geometry, Stream stream) {
  const ConvGeometry& g = geometry;
  if (g.is_depthwise()) return depthwise_backward_input_cpu(dy, weight, dx, g);
  const int64_t plane_elements = g.group_channels() * g.height * g.width;
  dispatch_floating(dx.dtype(), "conv2d_backward_input", [&]<class T>() {
    using Acc = accumulator_t<T>;
    for_image_ranges(g.batch, [&](int64_t begin, int64_t end) {
      Tensor columns = make_columns(g, dtype_of<Acc>);
      Tensor planes = empty({plane_elements}, dtype_of<Acc>);
      for (int64_t image = begin; image < end; ++image) {
        for_each_block(g, [&](int64_t group, int64_t first, int64_t count) {
          if (first == 0) planes.zero_();
          const int64_t positions = count * g.out_width;
          Tensor block = matrix_at(columns, 0, g.taps(), positions, positions);
          gemm_cpu(group_weight(weight, g, group).transpose(0, 1),
                   output_block(dy, g, image, group, first, count), block, {}, stream);
          scatter_columns(block.data<Acc>(), g, first, count, planes.data<Acc>());
          if (first + count == g.out_height) {
            Tensor target =
                matrix_at(dx, input_offset(g, image, group), 1, plane_elements, plane_elements);
            target.copy_(planes);
          }
        });
      }
    });
  });
}

void conv2d_backward_weight_cpu(const Tensor& dy, const Tensor& x, Tensor& dweight,
                                const ConvGeometry& geometry, Stream stream) {
  const ConvGeometry& g = geometry;
  if (g.is_depthwise()) return depthwise_backward_weight_cpu(dy, x, dweight, g);
  const auto add_images = [&](int64_t begin, int64_t end, Tensor& sum) {
    Tensor scratch = make_columns(g, x.dtype());
    for (int64_t image = begin; image < end; ++image) {
      for_each_block(g, [&](int64_t group, int64_t first, int64_t count) {
        const Tensor columns = columns_of(x, g, image, group, first, count, scratch);
        Tensor block = group_weight(sum, g, group);
        gemm_cpu(output_block(dy, g, image, group, first, count), columns.transpose(0, 1), block,
                 {.beta = 1}, stream);
      });
    }
  };
  // Small gradients are summed in a fixed number of parts, so that threads have parts of their own
  // and the result does not depend on how many there are.
  constexpr int64_t kParts = 8, kLargestPart = int64_t{1} << 20;
  if (g.batch < kParts || dweight.numel() > kLargestPart) {
    add_images(0, g.batch, dweight);
    return;
  }
  Tensor parts = zeros({kParts, dweight.numel()}, dweight.dtype());
  parallel_for(0, kParts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      Tensor sum = parts.select(0, part).view(dweight.shape());
      add_images(g.batch * part / kParts, g.batch * (part + 1) / kParts, sum);
    }
  });
  for (int64_t part = 0; part < kParts; ++part)
    add_(dweight, parts.select(0, part).view(dweight.shape()));
}

}  // namespace weft
