#include "reference/compressor_reference.h"

#include <cmath>
#include <utility>

namespace weft::attention::reference {

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

Matrix silu(Matrix u) {
  for (double& value : u.values) value *= sigmoid(value);
  return round_all(std::move(u));
}

Matrix silu_backward(Matrix gradient, const Matrix& u) {
  for (size_t i = 0; i < u.values.size(); ++i) {
    const double s = sigmoid(u.values[i]);
    gradient.values[i] *= s * (1 + u.values[i] * (1 - s));
  }
  return round_all(std::move(gradient));
}

namespace {

Matrix column_sums(const Matrix& rows) {
  Matrix sums(1, rows.columns);
  for (int64_t r = 0; r < rows.rows; ++r) {
    for (int64_t j = 0; j < rows.columns; ++j) sums.at(0, j) += rows.at(r, j);
  }
  return round_all(std::move(sums));
}

Matrix plus_bias(Matrix rows, const Matrix& bias) {
  for (int64_t r = 0; r < rows.rows; ++r) {
    for (int64_t j = 0; j < rows.columns; ++j) rows.at(r, j) += bias.values[j];
  }
  return round_all(std::move(rows));
}

}  // namespace

Compressor::Compressor(const BlockCompressorOptions& options, const Parameters& parameters,
                       std::string prefix, int64_t batch)
    : options_(options), parameters_(parameters), prefix_(std::move(prefix)), batch_(batch) {}

bool Compressor::has(const char* name) const {
  return parameters_.contains(prefix_ + name);
}

Matrix Compressor::get(const char* name) const {
  return Matrix(parameters_.at(prefix_ + name));
}

/// Of row m of a block, where a block is a sum of its rows.
double Compressor::weight(const Matrix& weights, int64_t head, int64_t m) const {
  if (weights.values.empty()) return 1 / static_cast<double>(options_.blocks.block);
  return weights.at(weights.rows == 1 ? 0 : head, m);
}

bool Compressor::pools() const {
  return options_.kind == CompressorKind::mean || options_.kind == CompressorKind::weighted;
}

template <class Body>
void Compressor::for_each_element(const Body& body) const {
  const auto [block, stride] = options_.blocks;
  for (int64_t b = 0; b < batch_; ++b) {
    for (int64_t i = 0; i < blocks_; ++i) {
      for (int64_t head = 0; head < options_.heads; ++head) {
        for (int64_t m = 0; m < block; ++m) {
          for (int64_t e = 0; e < options_.dim; ++e)
            body((b * blocks_ + i) * options_.heads + head, b * tokens_ + i * stride + m, head, m,
                 e);
        }
      }
    }
  }
}

Matrix Compressor::forward(const Matrix& x) {
  const int64_t block = options_.blocks.block, dim = options_.dim;
  tokens_ = x.rows / batch_;
  blocks_ = tokens_ < block ? 0 : (tokens_ - block) / options_.blocks.stride + 1;
  z_ = Matrix(batch_ * blocks_ * options_.heads, block * dim);
  Matrix mean(z_.rows, dim);
  const Matrix positions = has("positions") ? get("positions") : Matrix();
  for_each_element([&](int64_t row, int64_t token, int64_t head, int64_t m, int64_t e) {
    const double value = x.at(token, head * dim + e);
    mean.at(row, e) += value / static_cast<double>(block);
    z_.at(row, m * dim + e) = value + (has("positions") ? positions.at(head * block + m, e) : 0);
  });
  z_ = round_all(std::move(z_));
  Matrix y;
  if (pools()) {
    y = Matrix(z_.rows, dim);
    const Matrix weights = has("weights") ? get("weights") : Matrix();
    for_each_element([&](int64_t row, int64_t, int64_t head, int64_t m, int64_t e) {
      y.at(row, e) += weight(weights, head, m) * z_.at(row, m * dim + e);
    });
    y = round_all(std::move(y));
  } else if (options_.kind == CompressorKind::linear) {
    y = times_transposed(z_, get("proj.weight"));
  } else {
    u_ = plus_bias(times_transposed(z_, get("up.weight")), get("up.bias"));
    a_ = silu(u_);
    y = plus_bias(times_transposed(a_, get("down.weight")), get("down.bias"));
    if (options_.residual) y = y + mean;
  }
  Matrix out(batch_ * blocks_, options_.heads * dim);
  out.values = y.values;
  return out;
}

Matrix Compressor::backward(const Matrix& dout, Parameters& gradients) const {
  const int64_t block = options_.blocks.block, dim = options_.dim;
  Matrix dy(z_.rows, dim);
  dy.values = dout.values;
  Matrix dz(z_.rows, z_.columns), dx(batch_ * tokens_, options_.heads * dim);
  const auto put = [&](const char* name, const Matrix& gradient) {
    gradients[prefix_ + name] = gradient.tensor(parameters_.at(prefix_ + name).shape());
  };
  if (pools()) {
    const Matrix weights = has("weights") ? get("weights") : Matrix();
    Matrix dweights(weights.rows, weights.columns);
    for_each_element([&](int64_t row, int64_t, int64_t head, int64_t m, int64_t e) {
      dz.at(row, m * dim + e) = weight(weights, head, m) * dy.at(row, e);
      if (has("weights"))
        dweights.at(weights.rows == 1 ? 0 : head, m) += z_.at(row, m * dim + e) * dy.at(row, e);
    });
    if (has("weights")) put("weights", round_all(std::move(dweights)));
  } else if (options_.kind == CompressorKind::linear) {
    put("proj.weight", transposed_times(dy, z_));
    dz = times(dy, get("proj.weight"));
  } else {
    put("down.weight", transposed_times(dy, a_));
    put("down.bias", column_sums(dy));
    const Matrix du = silu_backward(times(dy, get("down.weight")), u_);
    put("up.weight", transposed_times(du, z_));
    put("up.bias", column_sums(du));
    dz = times(du, get("up.weight"));
  }
  Matrix dpositions(options_.heads * block, dim);
  for_each_element([&](int64_t row, int64_t token, int64_t head, int64_t m, int64_t e) {
    dx.at(token, head * dim + e) += dz.at(row, m * dim + e);
    dpositions.at(head * block + m, e) += dz.at(row, m * dim + e);
    if (options_.residual)
      dx.at(token, head * dim + e) += dy.at(row, e) / static_cast<double>(block);
  });
  if (has("positions")) put("positions", round_all(std::move(dpositions)));
  return round_all(std::move(dx));
}

}  // namespace weft::attention::reference
