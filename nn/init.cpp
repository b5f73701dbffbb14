#include "weft/nn/init.h"

#include <cmath>

#include "weft/tensor/check.h"
#include "weft/tensor/ops/random.h"

namespace weft::nn::init {

Tensor normal(Tensor tensor, Generator& generator, double mean, double std) {
  normal_(tensor, mean, std, generator);
  return tensor;
}

Tensor uniform(Tensor tensor, Generator& generator, double low, double high) {
  uniform_(tensor, low, high, generator);
  return tensor;
}

Tensor constant(Tensor tensor, double value) {
  tensor.fill_(value);
  return tensor;
}

Fans fans(const Tensor& weight) {
  WEFT_CHECK(weight.rank() >= 2, ShapeError, "init: a weight needs at least 2 axes, got {}",
             weight);
  int64_t receptive_field = 1;
  for (int axis = 2; axis < weight.rank(); ++axis) receptive_field *= weight.size(axis);
  return {weight.size(1) * receptive_field, weight.size(0) * receptive_field};
}

Tensor xavier_uniform(Tensor weight, Generator& generator, double gain) {
  const Fans f = fans(weight);
  const double bound = gain * std::sqrt(6.0 / static_cast<double>(f.in + f.out));
  return uniform(std::move(weight), generator, -bound, bound);
}

Tensor xavier_normal(Tensor weight, Generator& generator, double gain) {
  const Fans f = fans(weight);
  return normal(std::move(weight), generator, 0.0,
                gain * std::sqrt(2.0 / static_cast<double>(f.in + f.out)));
}

Tensor kaiming_normal(Tensor weight, Generator& generator) {
  const double std = std::sqrt(2.0 / static_cast<double>(fans(weight).in));
  return normal(std::move(weight), generator, 0.0, std);
}

Tensor kaiming_uniform(Tensor weight, Generator& generator) {
  const double bound = std::sqrt(6.0 / static_cast<double>(fans(weight).in));
  return uniform(std::move(weight), generator, -bound, bound);
}

}  // namespace weft::nn::init
