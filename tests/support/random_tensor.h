#pragma once

// Tensors with random values in every layout, and their comparison with doubles.
#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "weft/tensor/generator.h"
#include "weft/tensor/tensor.h"

namespace weft::test {

/// Uniform values in [low, high), rounded to dtype.
inline Tensor random_tensor(const Shape& shape, DType dtype, uint64_t seed = 1, double low = -2,
                            double high = 2) {
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = low + (high - low) * philox4x32(seed, i)[0] / 4294967296.0;
  }
  return from_vector(values, shape).to(dtype);
}

/// The same values as a view into a larger storage, at an offset: rows stay dense.
inline Tensor with_gaps(const Tensor& tensor) {
  Shape shape = tensor.shape();
  const int last = shape.rank() - 1;
  shape[last] += 5;
  Tensor wide = full(shape, 77, tensor.dtype());
  Tensor view = wide.slice(last, 3, 3 + tensor.size(last));
  view.copy_(tensor);
  return view;
}

/// The same values in a layout of which no axis is dense.
inline Tensor scattered(const Tensor& tensor) {
  Shape shape;
  for (int axis = tensor.rank() - 1; axis >= 0; --axis) shape.push_back(tensor.size(axis) * 2);
  Tensor view = full(shape, 77, tensor.dtype());
  std::vector<int> axes;
  for (int axis = tensor.rank() - 1; axis >= 0; --axis) {
    view = view.slice(axis, 1, 2 * tensor.size(tensor.rank() - 1 - axis), 2);
    axes.push_back(axis);
  }
  view = view.permute(axes);
  view.copy_(tensor);
  return view;
}

/// Half the distance of neighbouring numbers of this type near 1: the error of one rounding.
inline double rounding_error(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 0x1p-53;
    case DType::f32:
      return 0x1p-24;
    case DType::f16:
      return 0x1p-11;
    default:
      return 0x1p-8;
  }
}

/// The error of one rounding near zero, where numbers are evenly spaced.
inline double underflow_error(DType dtype) {
  return dtype == DType::f16 ? 0x1p-25 : dtype == DType::f64 ? 1e-300 : 1e-38;
}

/// Expects |actual - expected| <= absolute + relative * |expected| for every element; NaN fails.
inline void expect_near(const Tensor& actual, const std::vector<double>& expected, double relative,
                        double absolute, const char* what = "") {
  const std::vector<double> values = actual.to_vector<double>();
  ASSERT_EQ(values.size(), expected.size()) << what;
  for (size_t i = 0; i < values.size(); ++i) {
    const double bound = absolute + relative * std::fabs(expected[i]);
    ASSERT_TRUE(std::fabs(values[i] - expected[i]) <= bound)
        << what << " element " << i << " of " << describe(actual) << ": " << values[i]
        << ", expected " << expected[i] << " within " << bound;
  }
}

}  // namespace weft::test
