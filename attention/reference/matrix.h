#pragma once

#include <cstdint>
#include <vector>

#include "weft/tensor/tensor.h"

namespace weft::attention::reference {

/// A dense matrix of doubles with the products that layers are made of, as plain loops.
struct Matrix {
  Matrix() = default;
  Matrix(int64_t rows_in, int64_t columns_in)
      : rows(rows_in), columns(columns_in), values(static_cast<size_t>(rows_in * columns_in)) {}
  /// All leading axes of `x` become rows.
  explicit Matrix(const Tensor& x);

  double& at(int64_t row, int64_t column) { return values[row * columns + column]; }
  double at(int64_t row, int64_t column) const { return values[row * columns + column]; }
  Tensor tensor(const Shape& shape) const { return from_vector(values, shape); }
  /// Columns [first, last).
  Matrix part(int64_t first, int64_t last) const;

  int64_t rows = 0, columns = 0;
  std::vector<double> values;
};

/// Every element, as RoundSteps says.
Matrix round_all(Matrix x);

/// Rows [B T, H D] as [B, T, H, D], and back.
Tensor heads(const Matrix& rows, int64_t batch, int64_t count);
Matrix merged(const Tensor& x);

Matrix operator+(const Matrix& a, const Matrix& b);
/// Side by side.
Matrix beside(const Matrix& a, const Matrix& b);

/// a b^T, the map of a layer with weight b.
Matrix times_transposed(const Matrix& a, const Matrix& b);
/// a b: the gradient of that layer's input, given that of its output.
Matrix times(const Matrix& a, const Matrix& b);
/// a^T b: the gradient of the weight, given those of the output (a) and the input (b).
Matrix transposed_times(const Matrix& a, const Matrix& b);

/// Rows b * length + t of heads side by side, each of `dim` channels, turned by position +
/// step t (back, where `inverse`).
Matrix rotate(const Matrix& x, int64_t length, int64_t dim, double theta, int64_t position,
              bool inverse = false, int64_t step = 1);

/// y = x / sqrt(mean(x^2) + eps) * gain by rows, and its gradients.
Matrix rms_norm(const Matrix& x, const Matrix& gain, double eps);
struct RmsNormGradients {
  Matrix dx, dgain;
};
RmsNormGradients rms_norm_backward(const Matrix& dy, const Matrix& x, const Matrix& gain,
                                   double eps);

}  // namespace weft::attention::reference
