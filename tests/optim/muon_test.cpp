#include "weft/optim/muon.h"

#include <algorithm>

#include "weft/tensor/error.h"
#include "weft/tensor/ops/matmul.h"

#include "optim_test_support.h"

namespace weft::optim {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

/// A matrix of doubles, row-major.
struct Matrix {
  int64_t rows, columns;
  std::vector<double> values;

  Matrix(int64_t m, int64_t n) : rows(m), columns(n), values(static_cast<size_t>(m * n), 0.0) {}
  Matrix(int64_t m, int64_t n, std::vector<double> v) : rows(m), columns(n), values(std::move(v)) {}
  double& at(int64_t i, int64_t j) { return values[static_cast<size_t>(i * columns + j)]; }
  double at(int64_t i, int64_t j) const { return values[static_cast<size_t>(i * columns + j)]; }
};

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c(a.rows, b.columns);
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t k = 0; k < a.columns; ++k)
      for (int64_t j = 0; j < b.columns; ++j) c.at(i, j) += a.at(i, k) * b.at(k, j);
  return c;
}

Matrix transposed(const Matrix& a) {
  Matrix t(a.columns, a.rows);
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t j = 0; j < a.columns; ++j) t.at(j, i) = a.at(i, j);
  return t;
}

/// The iteration as published, on the left side whatever the shape.
Matrix newton_schulz_reference(Matrix x, int steps) {
  double sum = 0;
  for (const double v : x.values) sum += v * v;
  for (double& v : x.values) v /= std::sqrt(sum) + 1e-7;
  for (int step = 0; step < steps; ++step) {
    const Matrix a = product(x, transposed(x));
    const Matrix aa = product(a, a);
    Matrix b(a.rows, a.rows);
    for (size_t i = 0; i < b.values.size(); ++i)
      b.values[i] = -4.7750 * a.values[i] + 2.0315 * aa.values[i];
    const Matrix bx = product(b, x);
    for (size_t i = 0; i < x.values.size(); ++i) x.values[i] = 3.4445 * x.values[i] + bx.values[i];
  }
  return x;
}

/// Singular values, by Jacobi's rotations of the rows (one-sided).
std::vector<double> singular_values(Matrix a) {
  if (a.rows > a.columns) a = transposed(a);
  for (int sweep = 0; sweep < 30; ++sweep) {
    for (int64_t p = 0; p < a.rows; ++p) {
      for (int64_t q = p + 1; q < a.rows; ++q) {
        double pp = 0, qq = 0, pq = 0;
        for (int64_t k = 0; k < a.columns; ++k) {
          pp += a.at(p, k) * a.at(p, k);
          qq += a.at(q, k) * a.at(q, k);
          pq += a.at(p, k) * a.at(q, k);
        }
        if (std::abs(pq) <= 1e-14 * std::sqrt(pp * qq)) continue;
        const double zeta = (qq - pp) / (2 * pq);
        const double t = std::copysign(1, zeta) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
        const double c = 1 / std::sqrt(1 + t * t);
        const double s = c * t;
        for (int64_t k = 0; k < a.columns; ++k) {
          const double x = a.at(p, k), y = a.at(q, k);
          a.at(p, k) = c * x - s * y;
          a.at(q, k) = s * x + c * y;
        }
      }
    }
  }
  std::vector<double> values;
  for (int64_t i = 0; i < a.rows; ++i) {
    double sum = 0;
    for (int64_t k = 0; k < a.columns; ++k) sum += a.at(i, k) * a.at(i, k);
    values.push_back(std::sqrt(sum));
  }
  std::sort(values.begin(), values.end());
  return values;
}

ParameterGroup group_of(const NamedParameters& parameters) {
  return {.name = "matrices", .parameters = parameters};
}

/// What one step of rate 1 from zero subtracts: the orthogonalized gradient, for spectral scale
/// without the factor of tall matrices.
Matrix orthogonalized(const Tensor& grad, MuonOptions options) {
  options.scale = MuonScale::spectral;
  const NamedParameter named = make_parameter("w", zeros(grad.shape(), grad.dtype()));
  set_grad(named, grad);
  Muon({.matrices = {group_of({named})}}, options).step(1);
  Matrix result(grad.size(0), grad.size(1), values_of(named));
  const double factor = std::sqrt(
      std::max(1.0, static_cast<double>(result.rows) / static_cast<double>(result.columns)));
  for (double& value : result.values) value /= -factor;
  return result;
}

/// Random, with singular values that are neither equal nor tiny.
Tensor well_conditioned(const Shape& shape, DType dtype, uint64_t seed) {
  std::vector<double> values = random_values(shape.numel(), seed);
  for (int64_t i = 0; i < std::min(shape[0], shape[1]); ++i)
    values[static_cast<size_t>(i * shape[1] + i)] +=
        std::sqrt(static_cast<double>(std::max(shape[0], shape[1])));
  return from_vector(values, shape).to(dtype);
}

class MuonShapeTest : public testing::TestWithParam<Shape> {};
INSTANTIATE_TEST_SUITE_P(Shapes, MuonShapeTest,
                         testing::Values(Shape{1, 1}, Shape{1, 37}, Shape{37, 1}, Shape{2, 3},
                                         Shape{16, 16}, Shape{15, 63}, Shape{63, 15},
                                         Shape{111, 32}, Shape{8, 200}),
                         [](const auto& info) {
                           return std::to_string(info.param[0]) + "x" +
                                  std::to_string(info.param[1]);
                         });

TEST_P(MuonShapeTest, SingularValuesComeNearOne) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    for (const DType products : {DType::f64, DType::f32, DType::bf16}) {
      const Matrix x =
          orthogonalized(well_conditioned(GetParam(), dtype, 5), {.product_dtype = products});
      const std::vector<double> singular = singular_values(x);
      ASSERT_EQ(singular.size(), static_cast<size_t>(std::min(GetParam()[0], GetParam()[1])));
      EXPECT_GT(singular.front(), 0.65) << to_string(products);
      EXPECT_LT(singular.back(), 1.25) << to_string(products);
    }
  }
}

TEST_P(MuonShapeTest, IterationIsThePublishedOne) {
  for (const int steps : {1, 5}) {
    const Tensor grad = random_tensor(GetParam(), DType::f64, 6);
    const Matrix expected = newton_schulz_reference(
        Matrix(grad.size(0), grad.size(1), grad.to_vector<double>()), steps);
    const auto options = [&](DType products) {
      return MuonOptions{
          .nesterov = false, .newton_schulz_steps = steps, .product_dtype = products};
    };
    expect_near(orthogonalized(grad, options(DType::f64)).values, expected.values, 1e-11, "f64");
    expect_near(orthogonalized(grad.to(DType::f32), options(DType::f32)).values, expected.values,
                2e-5, "f32");
    expect_near(orthogonalized(grad.to(DType::f32), options(DType::bf16)).values, expected.values,
                0.06, "bf16");
  }
}

class MuonTest : public testing::TestWithParam<std::tuple<DType, bool>> {
 protected:
  DType dtype() const { return std::get<0>(GetParam()); }
  bool nesterov() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Cases, MuonTest,
                         testing::Combine(testing::Values(DType::f32, DType::f64), testing::Bool()),
                         [](const auto& info) {
                           return std::string(to_string(std::get<0>(info.param))) +
                                  (std::get<1>(info.param) ? "nesterov" : "plain");
                         });

TEST_P(MuonTest, FollowsTheReferenceOverManySteps) {
  // Two of one shape, so that they are orthogonalized together; a view of the wrong order would
  // swap them with the transposed shape between.
  const std::vector<Shape> shapes = {{12, 20}, {20, 12}, {12, 20}, {1, 9}, {70, 90}};
  NamedParameters parameters;
  for (size_t i = 0; i < shapes.size(); ++i)
    parameters.push_back(make_parameter(std::string("w").append(std::to_string(i)),
                                        random_tensor(shapes[i], dtype(), i)));
  const MuonOptions options{
      .momentum = 0.9, .nesterov = nesterov(), .weight_decay = 0.2, .product_dtype = dtype()};
  Muon optimizer({.matrices = {group_of(parameters)}}, options);
  std::vector<std::vector<double>> expected;
  std::vector<std::vector<double>> buffers;
  for (const NamedParameter& named : parameters) {
    expected.push_back(values_of(named));
    buffers.emplace_back(expected.back().size(), 0.0);
  }
  for (int step = 0; step < 12; ++step) {
    const double lr = 0.01 * (1 + step % 3);
    const double grad_scale = step % 2 == 0 ? 1.0 : 0.3;
    set_random_grads(parameters, step);
    for (size_t i = 0; i < shapes.size(); ++i) {
      const std::vector<double> grad = parameters[i].parameter.grad().to_vector<double>();
      Matrix direction(shapes[i][0], shapes[i][1]);
      for (size_t k = 0; k < grad.size(); ++k) {
        const double g = grad_scale * grad[k];
        buffers[i][k] = 0.9 * buffers[i][k] + g;
        direction.values[k] = nesterov() ? g + 0.9 * buffers[i][k] : buffers[i][k];
      }
      const Matrix x = newton_schulz_reference(direction, 5);
      const double longest = static_cast<double>(std::max(shapes[i][0], shapes[i][1]));
      for (size_t k = 0; k < grad.size(); ++k) {
        expected[i][k] -= lr * 0.2 * expected[i][k] + lr * 0.2 * std::sqrt(longest) * x.values[k];
      }
    }
    optimizer.step(lr, grad_scale);
  }
  const double tolerance = dtype() == DType::f64 ? 1e-10 : 1e-4;
  for (size_t i = 0; i < parameters.size(); ++i)
    expect_near(values_of(parameters[i]), expected[i], tolerance, parameters[i].name);
}

TEST_P(MuonTest, ConvergesOnAQuadraticOfAMatrix) {
  const Tensor target = random_tensor({10, 6}, DType::f64, 3);
  const NamedParameter named = make_parameter("w", zeros({10, 6}, dtype()));
  Muon optimizer({.matrices = {group_of({named})}}, {.nesterov = nesterov(), .weight_decay = 0});
  const std::vector<double> goal = target.to_vector<double>();
  constexpr int kSteps = 400;
  for (int step = 0; step < kSteps; ++step) {
    std::vector<double> grad = values_of(named);
    for (size_t i = 0; i < grad.size(); ++i) grad[i] -= goal[i];
    set_grad(named, from_vector(grad, {10, 6}).to(dtype()));
    optimizer.step(0.1 * (1 - static_cast<double>(step) / kSteps));
  }
  expect_near(values_of(named), goal, 2e-2, "w");
}

TEST(Muon, ScaleRules) {
  const auto size_of_step = [](const Shape& shape, MuonScale scale) {
    const NamedParameter named = make_parameter("w", zeros(shape, DType::f64));
    set_grad(named, well_conditioned(shape, DType::f64, 9));
    Muon({.matrices = {group_of({named})}}, {.scale = scale}).step(1);
    double sum = 0;
    for (const double v : values_of(named)) sum += v * v;
    return std::sqrt(sum);
  };
  // The two rules differ by a known factor on the same direction.
  EXPECT_NEAR(
      size_of_step({6, 24}, MuonScale::match_adamw) / size_of_step({6, 24}, MuonScale::spectral),
      0.2 * std::sqrt(24.0), 1e-12);
  EXPECT_NEAR(
      size_of_step({24, 6}, MuonScale::match_adamw) / size_of_step({24, 6}, MuonScale::spectral),
      0.2 * std::sqrt(24.0) / std::sqrt(24.0 / 6), 1e-12);
  // Steps like AdamW's have a root mean square near 0.2.
  EXPECT_NEAR(size_of_step({24, 24}, MuonScale::match_adamw) / 24, 0.2, 0.05);
}

TEST(Muon, ManyMatricesOfOneShapeEqualThemAlone) {
  NamedParameters together;
  for (int i = 0; i < 5; ++i) {
    together.push_back(
        make_parameter(std::string("w").append(std::to_string(i)),
                       random_tensor({9, 14}, DType::f64, static_cast<uint64_t>(i))));
  }
  set_random_grads(together, 0);
  const NamedParameters alone = clone_parameters(together);
  Muon({.matrices = {group_of(together)}}).step(0.1);
  for (const NamedParameter& named : alone) Muon({.matrices = {group_of({named})}}).step(0.1);
  for (size_t i = 0; i < together.size(); ++i)
    expect_near(values_of(together[i]), values_of(alone[i]), 1e-12, together[i].name);
}

TEST(Muon, OtherParametersTakeAdamWStepsAtTheirOwnRate) {
  const NamedParameter matrix = make_parameter("w", random_tensor({5, 6}, DType::f32, 1));
  const NamedParameter embedding = make_parameter("embed", random_tensor({7, 4}, DType::f32, 2));
  const NamedParameter gain = make_parameter("norm.weight", random_tensor({4}, DType::f32, 3));
  const NamedParameters same = clone_parameters({embedding, gain});
  const AdamWOptions adamw{.beta1 = 0.8, .beta2 = 0.9, .eps = 1e-6, .weight_decay = 0.3};
  Muon muon(split_for_muon({matrix, embedding, gain}, 0.25), {.adamw = adamw});
  AdamW reference(default_groups(same), adamw);
  for (int step = 0; step < 4; ++step) {
    set_random_grads({matrix, embedding, gain}, step);
    set_grad(same[0], embedding.parameter.grad().clone());
    set_grad(same[1], gain.parameter.grad().clone());
    muon.step(0.1, 0.5);
    reference.step(0.025, 0.5);
  }
  expect_same_bits({embedding, gain}, same);
}

TEST(Muon, SplitByRankAndName) {
  const MuonGroups groups =
      split_for_muon({make_parameter("model.embed_tokens.weight", zeros({10, 4})),
                      make_parameter("model.layers.0.q_proj.weight", zeros({4, 4})),
                      make_parameter("model.layers.0.q_proj.bias", zeros({4})),
                      make_parameter("model.layers.0.experts", zeros({2, 4, 4})),
                      make_parameter("model.layers.0.latent_norm.weight", zeros({2, 4})),
                      make_parameter("lm_head.weight", zeros({10, 4}))},
                     0.1);
  const auto names = [](const ParameterGroup& group) {
    std::vector<std::string> all;
    for (const NamedParameter& named : group.parameters) all.push_back(named.name);
    return all;
  };
  ASSERT_EQ(groups.matrices.size(), 1u);
  EXPECT_THAT(names(groups.matrices[0]), ElementsAre("model.layers.0.q_proj.weight"));
  EXPECT_EQ(groups.matrices[0].lr_scale, 1);
  ASSERT_EQ(groups.others.size(), 2u);
  EXPECT_THAT(names(groups.others[0]), ElementsAre("model.layers.0.experts", "lm_head.weight"));
  EXPECT_THAT(names(groups.others[1]),
              ElementsAre("model.embed_tokens.weight", "model.layers.0.q_proj.bias",
                          "model.layers.0.latent_norm.weight"));
  for (const ParameterGroup& group : groups.others) EXPECT_EQ(group.lr_scale, 0.1);
}

TEST(Muon, ZeroGradientsAndEmptyMatrices) {
  const NamedParameter still = make_parameter("still", ones({3, 4}));
  const NamedParameter empty_rows = make_parameter("empty", zeros({0, 4}));
  set_grad(still, zeros({3, 4}));
  set_grad(empty_rows, zeros({0, 4}));
  Muon optimizer({.matrices = {group_of({still, empty_rows})}}, {.weight_decay = 0});
  optimizer.step(0.1);
  EXPECT_EQ(values_of(still), std::vector<double>(12, 1.0));
}

TEST(Muon, GradientsOfAnySizeGiveTheSameStep) {
  const Tensor grad = well_conditioned({6, 9}, DType::f32, 4);
  const Matrix base = orthogonalized(grad, {.product_dtype = DType::f32});
  for (const double factor : {1e-5, 1e18}) {
    std::vector<double> scaled = grad.to_vector<double>();
    for (double& value : scaled) value *= factor;
    expect_near(
        orthogonalized(from_vector(scaled, {6, 9}).to(DType::f32), {.product_dtype = DType::f32})
            .values,
        base.values, 2e-2, "scaled");
  }
}

TEST(Muon, ProductsRunInTheTypeThatTheMachineIsFastAt) {
  const Tensor single = random_tensor({20, 30}, DType::f32, 1);
  const DType fast = has_fast_bf16_matmul(kCpu) ? DType::bf16 : DType::f32;
  const DType slow = has_fast_bf16_matmul(kCpu) ? DType::f32 : DType::bf16;
  EXPECT_EQ(orthogonalized(single, {}).values,
            orthogonalized(single, {.product_dtype = fast}).values);
  EXPECT_NE(orthogonalized(single, {}).values,
            orthogonalized(single, {.product_dtype = slow}).values);
  const Tensor twice = single.to(DType::f64);
  EXPECT_EQ(orthogonalized(twice, {}).values,
            orthogonalized(twice, {.product_dtype = DType::f64}).values);
}

TEST(Muon, MomentumDoesNotDependOnTheThreads) {
  const ThreadCountGuard guard;
  std::vector<std::vector<double>> buffers;
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    const NamedParameter named = make_parameter("w", random_tensor({130, 257}, DType::f32, 1));
    Muon optimizer({.matrices = {group_of({named})}});
    for (int step = 0; step < 3; ++step) {
      set_random_grads({named}, step);
      optimizer.step(0.1);
    }
    buffers.push_back(optimizer.state_dict()[0].tensor.to_vector<double>());
  }
  EXPECT_EQ(buffers[0], buffers[1]);
  EXPECT_EQ(buffers[0], buffers[2]);
}

TEST(Muon, RefusesBadOptions) {
  const auto message = [](MuonOptions options) {
    return message_of<ConfigError>([&] { Muon({}, options); });
  };
  EXPECT_THAT(message({.momentum = 1}), HasSubstr("muon: momentum must lie in [0, 1), got 1"));
  EXPECT_THAT(message({.newton_schulz_steps = 0}), HasSubstr("newton_schulz_steps"));
  EXPECT_THAT(message({.weight_decay = -1}), HasSubstr("weight_decay"));
  EXPECT_THAT(message({.product_dtype = DType::i64}),
              AllOf(HasSubstr("product_dtype"), HasSubstr("i64")));
  EXPECT_THAT(message({.adamw = {.eps = 0}}), HasSubstr("muon: eps"));
  EXPECT_THAT(message_of<ShapeError>(
                  [] { Muon({.matrices = {group_of({make_parameter("bias", zeros({4}))})}}); }),
              AllOf(HasSubstr("'bias'"), HasSubstr("[4]")));
}

}  // namespace
}  // namespace weft::optim
