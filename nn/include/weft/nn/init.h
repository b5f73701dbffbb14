#pragma once

#include "weft/tensor/generator.h"
#include "weft/tensor/tensor.h"

/// Initial values of parameters. Each function fills a tensor in place, drawing from `generator`,
/// and returns it.
namespace weft::nn::init {

Tensor normal(Tensor tensor, Generator& generator, double mean = 0.0, double std = 1.0);
Tensor uniform(Tensor tensor, Generator& generator, double low, double high);
Tensor constant(Tensor tensor, double value);

/// Inputs and outputs per unit of a weight [out, in] or a filter [out, in, k...]. Throws ShapeError
/// below rank 2.
struct Fans {
  int64_t in;
  int64_t out;
};
Fans fans(const Tensor& weight);

/// U(-a, a), a = gain * sqrt(6 / (in + out)) (Glorot and Bengio, 2010).
Tensor xavier_uniform(Tensor weight, Generator& generator, double gain = 1.0);
/// N(0, gain^2 * 2 / (in + out)).
Tensor xavier_normal(Tensor weight, Generator& generator, double gain = 1.0);
/// N(0, 2 / in), for ReLU networks (He et al., 2015).
Tensor kaiming_normal(Tensor weight, Generator& generator);
/// U(-a, a), a = sqrt(6 / in).
Tensor kaiming_uniform(Tensor weight, Generator& generator);

}  // namespace weft::nn::init
