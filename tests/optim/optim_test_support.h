#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/autograd/named_parameter.h"
#include "weft/tensor/parallel.h"
#include "weft/tensor/tensor.h"

#include "message_of.h"

namespace weft::optim {

using test::message_of;

/// The same pseudo-random numbers in [-1, 1) for the same seed, by SplitMix64.
inline std::vector<double> random_values(int64_t count, uint64_t seed) {
  std::vector<double> values(static_cast<size_t>(count));
  uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
  for (double& value : values) {
    state += 0x9E3779B97F4A7C15u;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    value = static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1;
  }
  return values;
}

inline Tensor random_tensor(const Shape& shape, DType dtype, uint64_t seed) {
  return from_vector(random_values(shape.numel(), seed), shape).to(dtype);
}

inline autograd::NamedParameter make_parameter(const std::string& name, const Tensor& value) {
  return {name, autograd::Variable(value, /*requires_grad=*/true)};
}

inline void set_grad(const autograd::NamedParameter& named, const Tensor& grad) {
  autograd::Variable handle = named.parameter;
  handle.mutable_grad() = grad;
}

inline std::vector<double> values_of(const autograd::NamedParameter& named) {
  return named.parameter.data().to_vector<double>();
}

/// Parameters of many sizes, some larger than a kernel's block, with random values.
inline autograd::NamedParameters assorted_parameters(DType dtype) {
  const std::vector<Shape> shapes = {{1},       {15},    {0},    {63},      {},
                                     {111},     {4096},  {4097}, {3, 5, 7}, {130, 257},
                                     {2, 0, 3}, {20000}, {16}};
  autograd::NamedParameters parameters;
  for (size_t i = 0; i < shapes.size(); ++i) {
    parameters.push_back(make_parameter(std::string("p").append(std::to_string(i)),
                                        random_tensor(shapes[i], dtype, 100 + i)));
  }
  return parameters;
}

/// Gives every parameter a gradient that depends on its position and the step.
inline void set_random_grads(const autograd::NamedParameters& parameters, int step) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto& parameter = parameters[i].parameter;
    set_grad(parameters[i], random_tensor(parameter.shape(), parameter.dtype(),
                                          7000 + 50 * static_cast<uint64_t>(step) + i));
  }
}

/// Independent copies of parameters, gradients included.
inline autograd::NamedParameters clone_parameters(const autograd::NamedParameters& parameters) {
  autograd::NamedParameters copies;
  for (const auto& named : parameters) {
    copies.push_back(make_parameter(named.name, named.parameter.data().clone()));
    if (named.parameter.grad().defined()) set_grad(copies.back(), named.parameter.grad().clone());
  }
  return copies;
}

/// NaN counts as equal to NaN here.
inline void expect_same_bits(const autograd::NamedParameters& a,
                             const autograd::NamedParameters& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(values_of(a[i]), values_of(b[i])) << a[i].name;
}

inline void expect_near(const std::vector<double>& actual, const std::vector<double>& expected,
                        double tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], tolerance * std::max(1.0, std::abs(expected[i])))
        << what << " at " << i;
  }
}

/// Restores the number of threads at the end of a test.
class ThreadCountGuard {
 public:
  ThreadCountGuard() : before_(num_threads()) {}
  ~ThreadCountGuard() { set_num_threads(before_); }
  ThreadCountGuard(const ThreadCountGuard&) = delete;
  ThreadCountGuard& operator=(const ThreadCountGuard&) = delete;

 private:
  int before_;
};

}  // namespace weft::optim
