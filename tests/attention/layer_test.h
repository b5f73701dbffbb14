#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "weft/autograd/functions/view.h"
#include "weft/autograd/variable.h"
#include "weft/nn/sequence_mixer.h"

#include "attention_test_data.h"
#include "reference/layer_reference.h"
#include "reference/rounding.h"

namespace weft::attention::testing {

/// A layer whose gains, biases and other parameters that begin as 0 or alike are random, so that a
/// wrong place or sign shows.
template <class Layer, class Options>
std::unique_ptr<Layer> make_layer(const Options& options, uint64_t seed = 7) {
  Generator generator(seed);
  auto layer = std::make_unique<Layer>(options, generator);
  uint64_t next = 1000 * seed;
  for (const auto& [name, parameter] : layer->named_parameters()) {
    ++next;
    const bool constant =
        name.find("layernorm") != std::string::npos || name.find("bias") != std::string::npos ||
        name.find("weights") != std::string::npos || name.find("down.weight") != std::string::npos;
    if (!constant) continue;
    autograd::Variable changed = parameter;
    changed.mutable_data().copy_(random_tensor(parameter.shape(), DType::f32, next, 0.4));
  }
  return layer;
}

inline Tensor forward(nn::SequenceMixer& layer, const Tensor& x, int64_t position = 0) {
  const autograd::NoGradGuard no_grad;
  return layer.forward(autograd::Variable(x), {.position = position}).data();
}

/// "name [shape]" of every parameter.
inline std::vector<std::string> parameter_list(const nn::Module& module) {
  std::vector<std::string> names;
  for (const auto& [name, parameter] : module.named_parameters())
    names.push_back(name + " " + to_string(parameter.shape()));
  return names;
}

inline reference::Parameters parameters_of(const nn::Module& module) {
  reference::Parameters parameters;
  for (const auto& [name, parameter] : module.named_parameters())
    parameters[name] = parameter.data();
  return parameters;
}

/// The layer's oracle: parameters, x and dy -> output and gradients.
using LayerOracle = std::function<reference::LayerResult(const reference::Parameters& parameters,
                                                         const Tensor& x, const Tensor& dy)>;

/// Largest difference of a from b, relative to the largest element of b where that is above 1.
inline double layer_difference(const Tensor& a, const Tensor& b) {
  return largest_difference(a, b) / std::max(1.0, largest_magnitude(b));
}

/// Root mean square of the difference, relative to that of b where it is above 0.1.
inline double relative_rms(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
  const double rms = std::sqrt(sum / static_cast<double>(std::max<size_t>(x.size(), 1)));
  return rms / std::max(0.1, root_mean_square(b));
}

/// What rounding may do to elements of order one.
inline double layer_tolerance(DType dtype) {
  return dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-5 : 2e-2;
}

/// Holds the results of layers to the exact ones: every element to the tolerance of its type, or to
/// four times the error of `naive`, the definition with every step rounded to the type, where that
/// is more. In low precision also the results of one name over all comparisons, as a root mean
/// square relative to their size, to 5e-3 or twice that of the naive ones (more where they are few:
/// either error is a sample).
class ResultCheck {
 public:
  explicit ResultCheck(DType dtype) : dtype_(dtype) {}
  ResultCheck(const ResultCheck&) = delete;
  ResultCheck& operator=(const ResultCheck&) = delete;
  ~ResultCheck() {
    for (const auto& [name, errors] : errors_) {
      EXPECT_LE(errors.found, std::max(5e-3, 2 * errors.naive) * (1 + 2 / std::sqrt(errors.count)))
          << name << " in " << errors.count << " comparisons";
    }
  }

  /// `terms` are those of the sums that the elements are: rounding grows with their square root,
  /// also where they cancel.
  void compare(const Tensor& a, const Tensor& exact, const Tensor& naive, const std::string& name,
               int64_t terms = 1) {
    const double tolerance =
        layer_tolerance(dtype_) * std::sqrt(std::max(1.0, static_cast<double>(terms) / 4));
    EXPECT_LE(layer_difference(a, exact), std::max(tolerance, 4 * layer_difference(naive, exact)))
        << name;
    if (size_of(dtype_) <= 2) errors_[name].add(relative_rms(a, exact), relative_rms(naive, exact));
  }

 private:
  struct Errors {
    void add(double one, double naive_one) {
      found = std::hypot(found * std::sqrt(count), one) / std::sqrt(count + 1);
      naive = std::hypot(naive * std::sqrt(count), naive_one) / std::sqrt(count + 1);
      count += 1;
    }
    double found = 0, naive = 0, count = 0;  // root mean squares of relative errors
  };
  DType dtype_;
  std::map<std::string, Errors> errors_;
};

/// The gradients that a backward pass has left, against the oracle's. Parameters that have none in
/// `exact` must have none or zeros.
inline void compare_gradients(const nn::Module& layer, const Tensor& dx,
                              const reference::LayerResult& exact,
                              const reference::LayerResult& naive, ResultCheck& check) {
  check.compare(dx, exact.dx, naive.dx, "dx");
  const int64_t tokens = dx.size(0) * dx.size(1);
  for (const auto& [name, parameter] : layer.named_parameters()) {
    const auto expected = exact.gradients.find(name);
    if (expected == exact.gradients.end()) {
      EXPECT_TRUE(!parameter.grad().defined() || root_mean_square(parameter.grad()) == 0) << name;
      continue;
    }
    if (!parameter.grad().defined()) {
      ADD_FAILURE() << name << " has no gradient";
      continue;
    }
    check.compare(parameter.grad(), expected->second, naive.gradients.at(name), name, tokens);
  }
}

/// Calls `oracle()` with every step rounded to `dtype`; gives `exact` where that is its own.
template <class Result, class Oracle>
Result rounded_result(const Result& exact, DType dtype, Oracle&& oracle) {
  if (dtype == DType::f64) return exact;
  const reference::RoundSteps in_its_type(dtype);
  return oracle();
}

/// Compares output and all gradients of `layer`, whose parameters take x's type, with its oracle.
inline void compare_with_oracle(nn::SequenceMixer& layer, const Tensor& x,
                                const LayerOracle& oracle, ResultCheck& check,
                                int64_t position = 0) {
  layer.to(x.dtype());
  layer.zero_grad();
  const Tensor dy = random_tensor(x.shape(), x.dtype(), 99);
  const reference::Parameters parameters = parameters_of(layer);
  const auto definition = [&] { return oracle(parameters, x, dy); };
  const reference::LayerResult exact = definition();
  const reference::LayerResult naive = rounded_result(exact, x.dtype(), definition);

  const autograd::Variable input(x, true);
  const autograd::Variable y = layer.forward(input, {.position = position});
  EXPECT_EQ(y.dtype(), x.dtype());
  check.compare(y.data(), exact.y, naive.y, "y");
  y.backward(dy);
  compare_gradients(layer, input.grad(), exact, naive, check);
}

/// One check for each type.
class ResultChecks {
 public:
  ResultCheck& operator[](DType dtype) {
    auto& check = checks_[dtype];
    if (check == nullptr) check = std::make_unique<ResultCheck>(dtype);
    return *check;
  }

 private:
  std::map<DType, std::unique_ptr<ResultCheck>> checks_;
};

/// Decodes x by prefills that end where `next(t)` says, and compares their rows with `whole`.
template <class Next>
void expect_decodes(nn::SequenceMixer& layer, const Tensor& x, const Tensor& whole, Next&& next,
                    int64_t more_capacity = 0) {
  const int64_t length = x.size(1);
  const auto cache = layer.make_cache(x.size(0), length + more_capacity, x.dtype(), kCpu);
  EXPECT_EQ(cache->bytes(), x.size(0) * layer.cache_bytes(cache->capacity(), x.dtype()));
  for (int64_t t = 0; t < length;) {
    const int64_t end = std::min<int64_t>(length, next(t));
    const autograd::Variable rows(x.slice(1, t, end));
    const Tensor y = layer.prefill(rows, *cache).data();
    EXPECT_LE(layer_difference(y, whole.slice(1, t, end)), layer_tolerance(x.dtype()))
        << t << ".." << end;
    t = end;
  }
}

/// In random pieces, half of them single tokens.
inline void expect_decodes_in_pieces(nn::SequenceMixer& layer, const Tensor& x, Draw& draw,
                                     int64_t most = 12) {
  expect_decodes(
      layer, x, forward(layer, x),
      [&](int64_t t) { return t + (draw.one_in(2) ? 1 : draw(1, most)); }, draw(0, 3));
}

/// Decodes in bf16 with f32 weights, as a model in mixed precision does: no further from f32 than
/// twice what the layer in training is.
inline void expect_decodes_in_bf16(nn::SequenceMixer& layer, const Tensor& x) {
  const Tensor exact = forward(layer, x.to(DType::f32)), training = forward(layer, x);
  ResultCheck check(DType::bf16);
  const auto cache = layer.make_cache(x.size(0), x.size(1), DType::bf16, kCpu);
  for (int64_t t = 0; t < x.size(1);) {
    const int64_t end = t == 0 ? 13 : t + 1;
    const Tensor y = layer.prefill(autograd::Variable(x.slice(1, t, end)), *cache).data();
    EXPECT_EQ(y.dtype(), DType::bf16);
    check.compare(y, exact.slice(1, t, end), training.slice(1, t, end), "y");
    t = end;
  }
}

/// Token s must reach exactly the rows s to s + window - 1.
inline void expect_sees_exactly(nn::SequenceMixer& layer, const Tensor& x, int64_t window) {
  const int64_t length = x.size(1);
  const Tensor before = forward(layer, x);
  for (int64_t s = 0; s < length; ++s) {
    Tensor changed = x.clone();
    changed.slice(1, s, s + 1).fill_(0.9);
    const Tensor after = forward(layer, changed);
    for (int64_t t = 0; t < length; ++t) {
      EXPECT_EQ(same_bits(before.select(1, t), after.select(1, t)), t < s || t >= s + window)
          << "token " << s << " changed, row " << t;
    }
  }
}

/// Output and gradients of x stay finite.
inline void expect_finite(nn::SequenceMixer& layer, const Tensor& x) {
  layer.zero_grad();
  const autograd::Variable input(x, true);
  const autograd::Variable y = layer.forward(input, {});
  y.backward(random_tensor(y.shape(), y.dtype(), 2));
  EXPECT_TRUE(std::isfinite(root_mean_square(y.data())));
  EXPECT_TRUE(std::isfinite(root_mean_square(input.grad())));
  for (const auto& [name, parameter] : layer.named_parameters()) {
    if (parameter.grad().defined()) {
      EXPECT_TRUE(std::isfinite(root_mean_square(parameter.grad()))) << name;
    }
  }
}

/// What two runs of forward and backward give: output, dx and the parameters' gradients.
inline std::vector<Tensor> all_results(nn::SequenceMixer& layer, const Tensor& x) {
  layer.zero_grad();
  const autograd::Variable input(x, true);
  const autograd::Variable y = layer.forward(input, {});
  y.backward(random_tensor(y.shape(), y.dtype(), 5));
  std::vector<Tensor> results = {y.data(), input.grad()};
  for (const autograd::Variable& parameter : layer.parameters())
    results.push_back(parameter.grad());
  return results;
}

inline void expect_same_bits_twice(nn::SequenceMixer& layer, const Tensor& x) {
  const std::vector<Tensor> first = all_results(layer, x);
  for (int run = 0; run < 2; ++run) {
    const std::vector<Tensor> again = all_results(layer, x);
    for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(same_bits(again[i], first[i])) << i;
  }
}

/// A loss on the first `rows` rows gives later tokens no gradient at all, and earlier ones some.
inline void expect_gradient_of_first_rows_alone(nn::SequenceMixer& layer, const Tensor& x,
                                                int64_t rows) {
  const autograd::Variable input(x, true);
  const autograd::Variable y = layer.forward(input, {});
  Tensor dy = random_tensor(x.shape(), x.dtype(), 3);
  dy.slice(1, rows, x.size(1)).zero_();
  y.backward(dy);
  EXPECT_EQ(root_mean_square(input.grad().slice(1, rows, x.size(1))), 0) << rows;
  EXPECT_GT(root_mean_square(input.grad().slice(1, 0, rows)), 0) << rows;
}

}  // namespace weft::attention::testing
