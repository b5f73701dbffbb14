#include "weft/optim/sgd.h"

#include "weft/tensor/error.h"

#include "optim_test_support.h"

namespace weft::optim {
namespace {

using testing::HasSubstr;

/// Textbook SGD, element by element.
struct Reference {
  std::vector<double> p, b;
  int64_t t = 0;

  explicit Reference(std::vector<double> initial) : p(std::move(initial)), b(p.size(), 0.0) {}

  void step(const std::vector<double>& grad, double scale, double lr, const SgdOptions& o) {
    ++t;
    for (size_t i = 0; i < p.size(); ++i) {
      double g = scale * grad[i] + o.weight_decay * p[i];
      if (o.momentum > 0) {
        b[i] = t == 1 ? g : o.momentum * b[i] + (1 - o.dampening) * g;
        g = o.nesterov ? g + o.momentum * b[i] : b[i];
      }
      p[i] -= lr * g;
    }
  }
};

struct Case {
  const char* name;
  SgdOptions options;
};

class SgdTest : public testing::TestWithParam<std::tuple<DType, Case>> {
 protected:
  DType dtype() const { return std::get<0>(GetParam()); }
  SgdOptions options() const { return std::get<1>(GetParam()).options; }
};

INSTANTIATE_TEST_SUITE_P(
    Cases, SgdTest,
    testing::Combine(
        testing::Values(DType::f32, DType::f64),
        testing::Values(Case{"plain", {}}, Case{"decay", {.weight_decay = 0.1}},
                        Case{"momentum", {.momentum = 0.9, .weight_decay = 0.01}},
                        Case{"dampening", {.momentum = 0.8, .dampening = 0.3}},
                        Case{"nesterov",
                             {.momentum = 0.9, .weight_decay = 0.02, .nesterov = true}})),
    [](const auto& info) {
      return std::string(to_string(std::get<0>(info.param))) + std::get<1>(info.param).name;
    });

TEST_P(SgdTest, FollowsTheReferenceOverManySteps) {
  const NamedParameters parameters = assorted_parameters(dtype());
  std::vector<Reference> references;
  for (const NamedParameter& named : parameters) references.emplace_back(values_of(named));
  Sgd optimizer({{.name = "all", .parameters = parameters}}, options());
  for (int step = 0; step < 40; ++step) {
    const double lr = 0.02 * (1 + step % 4);
    const double scale = step % 2 == 0 ? 1.0 : 0.3;
    set_random_grads(parameters, step);
    for (size_t i = 0; i < parameters.size(); ++i)
      references[i].step(parameters[i].parameter.grad().to_vector<double>(), scale, lr, options());
    optimizer.step(lr, scale);
  }
  const double tolerance = dtype() == DType::f64 ? 1e-13 : 3e-6;
  for (size_t i = 0; i < parameters.size(); ++i)
    expect_near(values_of(parameters[i]), references[i].p, tolerance, parameters[i].name);
}

TEST_P(SgdTest, ResultDoesNotDependOnTheThreads) {
  const ThreadCountGuard guard;
  const NamedParameters start = assorted_parameters(dtype());
  std::vector<NamedParameters> results;
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    results.push_back(clone_parameters(start));
    Sgd optimizer(default_groups(results.back()), options());
    for (int step = 0; step < 3; ++step) {
      set_random_grads(results.back(), step);
      optimizer.step(0.01, 0.7);
    }
  }
  for (size_t i = 1; i < results.size(); ++i) expect_same_bits(results[0], results[i]);
}

TEST_P(SgdTest, ConvergesOnAQuadratic) {
  SgdOptions without_decay = options();
  without_decay.weight_decay = 0;
  const NamedParameter bowl = make_parameter("bowl", full({3}, 5, dtype()));
  Sgd optimizer({{.parameters = {bowl}}}, without_decay);
  for (int step = 0; step < 400; ++step) {
    std::vector<double> grad = values_of(bowl);
    for (size_t i = 0; i < grad.size(); ++i) grad[i] = (grad[i] - 1) * static_cast<double>(1 + i);
    set_grad(bowl, from_vector(grad, {3}).to(dtype()));
    optimizer.step(0.05);
  }
  expect_near(values_of(bowl), {1, 1, 1}, 1e-4, "bowl");
}

TEST(Sgd, RefusesBadOptions) {
  const auto message = [](SgdOptions options) {
    return message_of<ConfigError>([&] { Sgd({}, options); });
  };
  EXPECT_THAT(message({.momentum = 1}), HasSubstr("sgd: momentum must lie in [0, 1), got 1"));
  EXPECT_THAT(message({.momentum = 0.5, .dampening = 1}), HasSubstr("dampening"));
  EXPECT_THAT(message({.weight_decay = -1}), HasSubstr("weight_decay"));
  EXPECT_THAT(message({.nesterov = true}), HasSubstr("nesterov needs momentum above 0"));
  EXPECT_THAT(message({.momentum = 0.9, .dampening = 0.1, .nesterov = true}),
              HasSubstr("dampening 0.1"));
}

}  // namespace
}  // namespace weft::optim
