#include "reference/matrix.h"

#include <cmath>
#include <utility>

#include "reference/rounding.h"

namespace weft::attention::reference {

Matrix round_all(Matrix x) {
  for (double& value : x.values) value = rounded(value);
  return x;
}

Matrix::Matrix(const Tensor& x)
    : rows(x.rank() < 2 ? 1 : x.numel() / x.size(-1)),
      columns(x.size(-1)),
      values(x.to_vector<double>()) {}

Matrix Matrix::part(int64_t first, int64_t last) const {
  Matrix out(rows, last - first);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = first; j < last; ++j) out.at(i, j - first) = at(i, j);
  }
  return out;
}

Tensor heads(const Matrix& rows, int64_t batch, int64_t count) {
  return rows.tensor({batch, rows.rows / batch, count, rows.columns / count});
}

Matrix merged(const Tensor& x) {
  Matrix out(x.size(0) * x.size(1), x.size(2) * x.size(3));
  out.values = x.to_vector<double>();
  return out;
}

Matrix operator+(const Matrix& a, const Matrix& b) {
  Matrix out = a;
  for (size_t i = 0; i < out.values.size(); ++i) out.values[i] += b.values[i];
  return round_all(std::move(out));
}

Matrix beside(const Matrix& a, const Matrix& b) {
  Matrix out(a.rows, a.columns + b.columns);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.columns; ++j) out.at(i, j) = a.at(i, j);
    for (int64_t j = 0; j < b.columns; ++j) out.at(i, a.columns + j) = b.at(i, j);
  }
  return out;
}

Matrix times_transposed(const Matrix& a, const Matrix& b) {
  Matrix out(a.rows, b.rows);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < b.rows; ++j) {
      for (int64_t k = 0; k < a.columns; ++k) out.at(i, j) += a.at(i, k) * b.at(j, k);
    }
  }
  return round_all(std::move(out));
}

Matrix times(const Matrix& a, const Matrix& b) {
  Matrix out(a.rows, b.columns);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t k = 0; k < a.columns; ++k) {
      for (int64_t j = 0; j < b.columns; ++j) out.at(i, j) += a.at(i, k) * b.at(k, j);
    }
  }
  return round_all(std::move(out));
}

Matrix transposed_times(const Matrix& a, const Matrix& b) {
  Matrix out(a.columns, b.columns);
  for (int64_t k = 0; k < a.rows; ++k) {
    for (int64_t i = 0; i < a.columns; ++i) {
      for (int64_t j = 0; j < b.columns; ++j) out.at(i, j) += a.at(k, i) * b.at(k, j);
    }
  }
  return round_all(std::move(out));
}

Matrix rotate(const Matrix& x, int64_t length, int64_t dim, double theta, int64_t position,
              bool inverse, int64_t step) {
  Matrix out = x;
  const int64_t half = dim / 2;
  for (int64_t row = 0; row < x.rows; ++row) {
    const auto p = static_cast<double>(position + step * (row % length));
    for (int64_t head = 0; head < x.columns; head += dim) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle =
            p * std::pow(theta, -2 * static_cast<double>(i) / static_cast<double>(dim));
        const double c = std::cos(angle), s = inverse ? -std::sin(angle) : std::sin(angle);
        const double a = x.at(row, head + i), b = x.at(row, head + half + i);
        out.at(row, head + i) = a * c - b * s;
        out.at(row, head + half + i) = a * s + b * c;
      }
    }
  }
  return round_all(std::move(out));
}

namespace {

double inverse_rms(const Matrix& x, int64_t row, double eps) {
  double sum = 0;
  for (int64_t j = 0; j < x.columns; ++j) sum += x.at(row, j) * x.at(row, j);
  return 1 / std::sqrt(sum / static_cast<double>(x.columns) + eps);
}

}  // namespace

Matrix rms_norm(const Matrix& x, const Matrix& gain, double eps) {
  Matrix out = x;
  for (int64_t i = 0; i < x.rows; ++i) {
    const double rho = inverse_rms(x, i, eps);
    for (int64_t j = 0; j < x.columns; ++j) out.at(i, j) *= rho * gain.at(0, j);
  }
  return round_all(std::move(out));
}

RmsNormGradients rms_norm_backward(const Matrix& dy, const Matrix& x, const Matrix& gain,
                                   double eps) {
  RmsNormGradients grads{Matrix(x.rows, x.columns), Matrix(1, x.columns)};
  for (int64_t i = 0; i < x.rows; ++i) {
    const double rho = inverse_rms(x, i, eps);
    double mean = 0;
    for (int64_t j = 0; j < x.columns; ++j) mean += dy.at(i, j) * gain.at(0, j) * x.at(i, j) * rho;
    mean /= static_cast<double>(x.columns);
    for (int64_t j = 0; j < x.columns; ++j) {
      grads.dgain.at(0, j) += dy.at(i, j) * x.at(i, j) * rho;
      grads.dx.at(i, j) = rho * (dy.at(i, j) * gain.at(0, j) - x.at(i, j) * rho * mean);
    }
  }
  return {round_all(std::move(grads.dx)), round_all(std::move(grads.dgain))};
}

}  // namespace weft::attention::reference
