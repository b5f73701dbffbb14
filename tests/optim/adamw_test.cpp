#include "weft/optim/adamw.h"

#include "weft/tensor/error.h"

#include "optim_test_support.h"

namespace weft::optim {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// AdamW as the paper writes it, element by element.
struct Reference {
  std::vector<double> p, m, v;
  int64_t t = 0;

  explicit Reference(std::vector<double> initial)
      : p(std::move(initial)), m(p.size(), 0.0), v(p.size(), 0.0) {}

  void step(const std::vector<double>& grad, double scale, double lr, double decay,
            const AdamWOptions& o) {
    ++t;
    for (size_t i = 0; i < p.size(); ++i) {
      const double g = scale * grad[i];
      m[i] = o.beta1 * m[i] + (1 - o.beta1) * g;
      v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g;
      const double m_hat = m[i] / (1 - std::pow(o.beta1, static_cast<double>(t)));
      const double v_hat = v[i] / (1 - std::pow(o.beta2, static_cast<double>(t)));
      p[i] -= lr * decay * p[i];
      p[i] -= lr * m_hat / (std::sqrt(v_hat) + o.eps);
    }
  }
};

class AdamWTest : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(DTypes, AdamWTest, testing::Values(DType::f32, DType::f64),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_P(AdamWTest, FollowsTheReferenceOverManySteps) {
  const NamedParameters parameters = assorted_parameters(GetParam());
  std::vector<Reference> references;
  for (const NamedParameter& named : parameters) references.emplace_back(values_of(named));
  const AdamWOptions options{.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.3};
  // Odd parameters run at another rate and without decay.
  ParameterGroup even{.name = "even"};
  ParameterGroup odd{.name = "odd", .lr_scale = 0.25, .weight_decay = 0.0};
  for (size_t i = 0; i < parameters.size(); ++i)
    (i % 2 == 0 ? even : odd).parameters.push_back(parameters[i]);
  AdamW optimizer({even, odd}, options);

  for (int step = 0; step < 60; ++step) {
    const double lr = 0.01 * (1 + step % 5);
    const double scale = step % 3 == 0 ? 1.0 : 0.4;
    set_random_grads(parameters, step);
    for (size_t i = 0; i < parameters.size(); ++i) {
      references[i].step(parameters[i].parameter.grad().to_vector<double>(), scale,
                         i % 2 == 0 ? lr : 0.25 * lr, i % 2 == 0 ? 0.3 : 0.0, options);
    }
    optimizer.step(lr, scale);
  }
  const double tolerance = GetParam() == DType::f64 ? 1e-13 : 3e-6;
  for (size_t i = 0; i < parameters.size(); ++i)
    expect_near(values_of(parameters[i]), references[i].p, tolerance, parameters[i].name);
}

TEST_P(AdamWTest, FirstStepMovesByTheRateInTheDirectionOfTheSign) {
  const NamedParameter named = make_parameter("w", zeros({3}, GetParam()));
  set_grad(named, from_vector<double>({1e-4, -7, 0}, {3}).to(GetParam()));
  AdamW({{.parameters = {named}, .weight_decay = 0.0}}, {}).step(0.5);
  expect_near(values_of(named), {-0.5, 0.5, 0}, 1e-4, "w");
}

TEST_P(AdamWTest, DecayIsDecoupledFromTheGradient) {
  const NamedParameter named = make_parameter("w", full({2}, 8, GetParam()));
  set_grad(named, zeros({2}, GetParam()));
  AdamW({{.parameters = {named}}}, {.weight_decay = 0.5}).step(0.25);
  EXPECT_EQ(values_of(named), (std::vector<double>{7, 7}));
}

TEST_P(AdamWTest, BiasCorrectionCountsTheStepsOfEachParameter) {
  const NamedParameter often = make_parameter("often", zeros({1}, GetParam()));
  const NamedParameter seldom = make_parameter("seldom", zeros({1}, GetParam()));
  AdamW optimizer({{.parameters = {often, seldom}, .weight_decay = 0.0}}, {});
  for (int step = 0; step < 20; ++step) {
    set_grad(often, ones({1}, GetParam()));
    optimizer.step(0.01);
  }
  EXPECT_EQ(values_of(seldom)[0], 0);
  set_grad(seldom, ones({1}, GetParam()));
  optimizer.step(0.01);
  EXPECT_NEAR(values_of(seldom)[0], -0.01, 1e-6);  // a full first step, not one of a cold 21st
}

TEST_P(AdamWTest, ConvergesOnAQuadraticAndOnRosenbrock) {
  const NamedParameter bowl = make_parameter("bowl", full({4}, 3, GetParam()));
  const NamedParameter valley =
      make_parameter("valley", from_vector<double>({-1.2, 1}, {2}).to(GetParam()));
  AdamW optimizer({{.parameters = {bowl, valley}, .weight_decay = 0.0}}, {});
  for (int step = 0; step < 6000; ++step) {
    std::vector<double> grad = values_of(bowl);
    for (size_t i = 0; i < grad.size(); ++i)
      grad[i] = (grad[i] - 1) * std::pow(10.0, static_cast<double>(i));
    set_grad(bowl, from_vector(grad, {4}).to(GetParam()));
    const double x = values_of(valley)[0];
    const double y = values_of(valley)[1];
    set_grad(valley,
             from_vector<double>({-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)}, {2})
                 .to(GetParam()));
    optimizer.step(0.02 * (1 - step / 6000.0));
  }
  expect_near(values_of(bowl), {1, 1, 1, 1}, 1e-3, "bowl");
  expect_near(values_of(valley), {1, 1}, 1e-2, "valley");
}

TEST_P(AdamWTest, ResultDoesNotDependOnTheThreads) {
  const ThreadCountGuard guard;
  const NamedParameters start = assorted_parameters(GetParam());
  std::vector<NamedParameters> results;
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    results.push_back(clone_parameters(start));
    AdamW optimizer(default_groups(results.back()), {});
    for (int step = 0; step < 3; ++step) {
      set_random_grads(results.back(), step);
      optimizer.step(0.01, 0.7);
    }
  }
  for (size_t i = 1; i < results.size(); ++i) expect_same_bits(results[0], results[i]);
}

TEST(AdamW, RefusesBadOptions) {
  const auto message = [](AdamWOptions options) {
    return message_of<ConfigError>([&] { AdamW({}, options); });
  };
  EXPECT_THAT(message({.beta1 = 1}), AllOf(HasSubstr("adamw: beta1"), HasSubstr("got 1")));
  EXPECT_THAT(message({.beta1 = -0.1}), HasSubstr("got -0.1"));
  EXPECT_THAT(message({.beta2 = 1.5}), HasSubstr("beta2 must lie in [0, 1), got 1.5"));
  EXPECT_THAT(message({.beta2 = std::nan("")}), HasSubstr("beta2"));
  EXPECT_THAT(message({.eps = 0}), HasSubstr("eps"));
  EXPECT_THAT(message({.eps = -1e-8}), HasSubstr("got -1e-08"));
  EXPECT_THAT(message({.weight_decay = -1}), HasSubstr("weight_decay"));
}

}  // namespace
}  // namespace weft::optim
