#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/conv_kernels.h"

namespace weft {

/// Where one element of a kernel meets the input: tap = (channel * kernel_height + ky) *
/// kernel_width + kx of a group.
struct TapView {
  int64_t channel;
  int64_t first_row, first_column;  // of the input, for output position (0, 0); may lie outside
  int64_t begin, end;               // output columns whose input column exists

  TapView(const ConvGeometry& g, int64_t tap) {
    const int64_t kernel_x = tap % g.kernel_width;
    const int64_t kernel_y = tap / g.kernel_width % g.kernel_height;
    channel = tap / (g.kernel_width * g.kernel_height);
    first_row = kernel_y * g.options.dilation[0] - g.options.padding[0];
    first_column = kernel_x * g.options.dilation[1] - g.options.padding[1];
    // The smallest x with first_column + x * stride >= 0, and the smallest with >= width.
    const int64_t stride = g.options.stride[1];
    const auto reaches = [&](int64_t column) {
      return std::clamp<int64_t>(column <= 0 ? 0 : (column + stride - 1) / stride, 0, g.out_width);
    };
    begin = reaches(-first_column);
    end = std::max(begin, reaches(g.width - first_column));
  }

  /// May lie outside.
  int64_t input_row(const ConvGeometry& g, int64_t output_row) const {
    return first_row + output_row * g.options.stride[0];
  }
};

}  // namespace weft
