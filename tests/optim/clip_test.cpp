#include "weft/optim/clip.h"

#include <limits>

#include "weft/optim/sgd.h"
#include "weft/tensor/error.h"

#include "optim_test_support.h"

namespace weft::optim {
namespace {

using autograd::NamedParameter;
using testing::AllOf;
using testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

double naive_norm(const NamedParameters& parameters) {
  double sum = 0;
  for (const NamedParameter& named : parameters) {
    if (!named.parameter.grad().defined()) continue;
    for (const double g : named.parameter.grad().to_vector<double>()) sum += g * g;
  }
  return std::sqrt(sum);
}

class ClipTest : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(DTypes, ClipTest,
                         testing::Values(DType::f32, DType::f64, DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_P(ClipTest, NormAsTensorHasTheSameBits) {
  const NamedParameters parameters = assorted_parameters(GetParam());
  const Tensor none = grad_norm_tensor(parameters);
  EXPECT_EQ(none.item<double>(), 0);
  set_random_grads(parameters, 1);
  const Tensor norm = grad_norm_tensor(parameters);
  EXPECT_EQ(norm.rank(), 0);
  EXPECT_EQ(norm.dtype(), DType::f64);
  EXPECT_EQ(norm.item<double>(), grad_norm(parameters));
}

TEST(ClipScaleTensor, IsThatOfTheHost) {
  for (const double norm : {0.0, 0.3, 1.0, 7.0, 1e30}) {
    for (const double max_norm : {0.1, 1.0, 3.0, kInfinity}) {
      const Tensor scale = clip_scale_tensor(scalar(norm, DType::f64), max_norm);
      EXPECT_EQ(scale.rank(), 0);
      EXPECT_EQ(scale.dtype(), DType::f64);
      EXPECT_EQ(scale.item<double>(), clip_scale(norm, max_norm));
      const auto rounded = static_cast<double>(static_cast<float>(norm));
      EXPECT_EQ(clip_scale_tensor(scalar(norm), max_norm).item<double>(),
                clip_scale(rounded, max_norm));
    }
  }
}

TEST(ClipScaleTensor, ClipsWhatIsUnscaled) {
  const Tensor norm = scalar(600, DType::f64);  // 6 without the loss's factor of 100
  EXPECT_DOUBLE_EQ(clip_scale_tensor(norm, 10, scalar(0.01, DType::f64)).item<double>(), 0.01);
  EXPECT_DOUBLE_EQ(clip_scale_tensor(norm, 3, scalar(0.01, DType::f64)).item<double>(), 0.005);
  EXPECT_DOUBLE_EQ(clip_scale_tensor(norm, 1200, scalar(4)).item<double>(), 2);
}

TEST(ClipScaleTensor, IsNotFiniteWhereTheNormIsNot) {
  for (const double bad : {kInfinity, kNan}) {
    for (const double max_norm : {1.0, kInfinity}) {
      EXPECT_FALSE(
          std::isfinite(clip_scale_tensor(scalar(bad, DType::f64), max_norm).item<double>()));
      EXPECT_FALSE(
          std::isfinite(clip_scale_tensor(scalar(bad), max_norm, scalar(0.5)).item<double>()));
      EXPECT_FALSE(
          std::isfinite(clip_scale_tensor(scalar(1), max_norm, scalar(bad)).item<double>()));
    }
  }
}

TEST(ClipScaleTensor, RefusesWhatIsNoNumber) {
  EXPECT_THROW(clip_scale_tensor(scalar(1), 0), ConfigError);
  EXPECT_THROW(clip_scale_tensor(scalar(1), kNan), ConfigError);
  EXPECT_THROW(clip_scale_tensor(Tensor(), 1), ShapeError);
  EXPECT_THROW(clip_scale_tensor(ones({1}), 1), ShapeError);
  EXPECT_THROW(clip_scale_tensor(scalar(1), 1, ones({2})), ShapeError);
  EXPECT_THROW(clip_scale_tensor(scalar(1, DType::f16), 1), DTypeError);
  EXPECT_THROW(clip_scale_tensor(scalar(1), 1, scalar(1, DType::i64)), DTypeError);
}

TEST_P(ClipTest, NormIsThatOfAllGradientsTogether) {
  NamedParameters parameters = assorted_parameters(GetParam());
  set_random_grads(parameters, 1);
  parameters.push_back(make_parameter("without", zeros({9}, GetParam())));
  EXPECT_NEAR(grad_norm(parameters), naive_norm(parameters), 1e-12 * naive_norm(parameters));
}

TEST_P(ClipTest, NormIsExactToTheBitForAnyThreads) {
  const ThreadCountGuard guard;
  const NamedParameters parameters = assorted_parameters(GetParam());
  set_random_grads(parameters, 2);
  set_num_threads(1);
  const double one = grad_norm(parameters);
  for (const int threads : {2, 3}) {
    set_num_threads(threads);
    EXPECT_EQ(grad_norm(parameters), one);
  }
}

TEST_P(ClipTest, ClippingScalesToTheBoundAndReturnsTheNormBefore) {
  const NamedParameters parameters = assorted_parameters(GetParam());
  set_random_grads(parameters, 3);
  const double before = naive_norm(parameters);
  ASSERT_GT(before, 2);
  EXPECT_NEAR(clip_grad_norm(parameters, 2), before, 1e-12 * before);
  const double rounding = size_of(GetParam()) == 2 ? 1e-3 : 1e-6;
  EXPECT_NEAR(naive_norm(parameters), 2, 2 * rounding);
}

TEST_P(ClipTest, GradientsWithinTheBoundStayBitForBit) {
  const NamedParameter named = make_parameter("w", zeros({3}, GetParam()));
  const Tensor grad = from_vector<double>({0.75, 0, -1}, {3}).to(GetParam());
  set_grad(named, grad.clone());
  EXPECT_EQ(clip_grad_norm({named}, 1.25), 1.25);
  EXPECT_EQ(named.parameter.grad().to_vector<double>(), grad.to_vector<double>());
}

TEST_P(ClipTest, NonFiniteGradientsAreNamedAndLeftAlone) {
  for (const double bad : {kNan, kInfinity, -kInfinity}) {
    const NamedParameters parameters = assorted_parameters(GetParam());
    set_random_grads(parameters, 4);
    Tensor matrix = parameters[9].parameter.grad();  // [130, 257]
    matrix.slice(0, 100, 101).slice(1, 200, 201).fill_(bad);
    Tensor later = parameters[11].parameter.grad();
    later.fill_(kNan);
    EXPECT_FALSE(std::isfinite(grad_norm(parameters)));
    const std::optional<NonFiniteGrad> found = find_non_finite_grad(parameters);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->name, "p9");
    EXPECT_EQ(found->index, 100 * 257 + 200);
    EXPECT_EQ(std::isnan(found->value), std::isnan(bad));
    const std::vector<double> untouched = parameters[5].parameter.grad().to_vector<double>();
    EXPECT_THAT(message_of<AutogradError>([&] { clip_grad_norm(parameters, 1); }),
                AllOf(HasSubstr("clip_grad_norm"), HasSubstr("'p9'"), HasSubstr("[100, 200]")));
    EXPECT_EQ(parameters[5].parameter.grad().to_vector<double>(), untouched);
    EXPECT_THAT(message_of<AutogradError>([&] { check_finite_grads(parameters, 42); }),
                AllOf(HasSubstr("step 42"), HasSubstr("'p9'"), HasSubstr("[100, 200]")));
  }
}

TEST_P(ClipTest, FiniteGradientsPassTheCheck) {
  const NamedParameters parameters = assorted_parameters(GetParam());
  set_random_grads(parameters, 5);
  EXPECT_FALSE(find_non_finite_grad(parameters));
  EXPECT_NO_THROW(check_finite_grads(parameters, 1));
}

TEST(Clip, NothingToClip) {
  EXPECT_EQ(grad_norm({}), 0);
  EXPECT_EQ(clip_grad_norm({}, 1), 0);
  const NamedParameter zero = make_parameter("w", ones({5}));
  EXPECT_EQ(grad_norm({zero}), 0);
  set_grad(zero, zeros({5}));
  EXPECT_EQ(clip_grad_norm({zero}, 1), 0);
  EXPECT_EQ(zero.parameter.grad().to_vector<double>(), std::vector<double>(5, 0.0));
  EXPECT_FALSE(find_non_finite_grad({zero}));
}

TEST(Clip, LargestFloatsDoNotOverflowTheNorm) {
  const NamedParameter named = make_parameter("w", zeros({4}));
  set_grad(named, full({4}, 3e38));
  EXPECT_NEAR(grad_norm({named}) / 6e38, 1, 1e-6);
  clip_grad_norm({named}, 1);
  EXPECT_NEAR(grad_norm({named}), 1, 1e-6);
}

TEST(Clip, OverflowOfTheNormIsReportedAsSuch) {
  const NamedParameter named = make_parameter("w", zeros({2}, DType::f64));
  set_grad(named, full({2}, 1e200, DType::f64));
  EXPECT_EQ(grad_norm({named}), kInfinity);
  EXPECT_THAT(message_of<AutogradError>([&] { clip_grad_norm({named}, 1); }),
              HasSubstr("all gradients are finite"));
}

TEST(Clip, MixedTypesAndStridedGradients) {
  const NamedParameter a = make_parameter("a", zeros({2, 3}));
  const NamedParameter b = make_parameter("b", zeros({4}, DType::f64));
  set_grad(a, from_vector<float>({1, 2, 3, 4, 5, 6}, {3, 2}).transpose(0, 1));
  set_grad(b, full({1}, 3, DType::f64).expand({4}));
  EXPECT_DOUBLE_EQ(grad_norm({a, b}), std::sqrt(91.0 + 36.0));
  clip_grad_norm({a, b}, std::sqrt(127.0) / 2);
  expect_near(a.parameter.grad().to_vector<double>(), {0.5, 1.5, 2.5, 1, 2, 3}, 1e-6, "a");
  expect_near(b.parameter.grad().to_vector<double>(), {1.5, 1.5, 1.5, 1.5}, 1e-12, "b");
}

TEST(Clip, ScaleOfANorm) {
  EXPECT_EQ(clip_scale(0, 1), 1);
  EXPECT_EQ(clip_scale(1, 1), 1);
  EXPECT_EQ(clip_scale(4, 1), 0.25);
  EXPECT_EQ(clip_scale(4, kInfinity), 1);
  EXPECT_THROW(clip_scale(kNan, 1), AutogradError);
  EXPECT_THROW(clip_scale(kInfinity, 1), AutogradError);
  EXPECT_THROW(clip_scale(-1, 1), ConfigError);
  EXPECT_THAT(message_of<ConfigError>([] { clip_scale(1, 0); }), HasSubstr("got 0"));
  EXPECT_THROW(clip_scale(1, -2), ConfigError);
  EXPECT_THROW(clip_scale(1, kNan), ConfigError);
  EXPECT_THROW(clip_grad_norm({}, -1), ConfigError);
}

TEST(Clip, ScaleGivenToTheStepEqualsClippingBefore) {
  const NamedParameters clipped = assorted_parameters(DType::f64);
  set_random_grads(clipped, 6);
  const NamedParameters scaled = clone_parameters(clipped);
  const double norm = clip_grad_norm(clipped, 0.5);
  Sgd(default_groups(clipped)).step(0.1);
  Sgd(default_groups(scaled)).step(0.1, clip_scale(norm, 0.5));
  for (size_t i = 0; i < clipped.size(); ++i)
    expect_near(values_of(scaled[i]), values_of(clipped[i]), 1e-15, clipped[i].name);
}

}  // namespace
}  // namespace weft::optim
