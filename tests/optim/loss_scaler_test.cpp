#include "weft/optim/loss_scaler.h"

#include <limits>

#include "weft/autograd/functions/arithmetic.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/reduce.h"
#include "weft/autograd/functions/view.h"
#include "weft/optim/adamw.h"
#include "weft/optim/clip.h"
#include "weft/optim/sgd.h"
#include "weft/tensor/error.h"

#include "optim_test_support.h"

namespace weft::optim {
namespace {

using autograd::NamedParameter;
using autograd::Variable;
using testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void expect_scale(const LossScaler& scaler, double scale) {
  EXPECT_EQ(scaler.scale(), scale);
  EXPECT_EQ(scaler.scale_tensor().item<double>(), scale);
  EXPECT_EQ(scaler.inverse_scale_tensor().item<double>(), 1 / scale);
}

TEST(LossScaler, GrowsAfterGoodStepsAndBacksOffAtOnce) {
  LossScaler scaler({.initial_scale = 1024, .growth_interval = 3});
  const void* const address = scaler.scale_tensor().raw_data();
  const void* const inverse_address = scaler.inverse_scale_tensor().raw_data();
  EXPECT_EQ(scaler.scale_tensor().dtype(), DType::f32);
  EXPECT_EQ(scaler.scale_tensor().rank(), 0);
  expect_scale(scaler, 1024);
  scaler.update(true);
  scaler.update(true);
  expect_scale(scaler, 1024);
  scaler.update(true);
  expect_scale(scaler, 2048);
  scaler.update(true);
  scaler.update(true);
  scaler.update(false);  // and counts from 0 again
  expect_scale(scaler, 1024);
  scaler.update(true);
  scaler.update(true);
  expect_scale(scaler, 1024);
  scaler.update(true);
  expect_scale(scaler, 2048);
  EXPECT_EQ(scaler.scale_tensor().raw_data(), address);
  EXPECT_EQ(scaler.inverse_scale_tensor().raw_data(), inverse_address);
}

TEST(LossScaler, StaysBetweenItsEnds) {
  LossScaler scaler({.initial_scale = 4,
                     .growth_factor = 3,
                     .growth_interval = 1,
                     .min_scale = 3,
                     .max_scale = 20});
  scaler.update(true);
  scaler.update(true);
  expect_scale(scaler, 20);
  for (int i = 0; i < 5; ++i) scaler.update(false);
  expect_scale(scaler, 3);
}

TEST(LossScaler, FactorsThatNoFloatHoldsAreRoundedOnce) {
  LossScaler scaler(
      {.initial_scale = 0.1, .growth_interval = 1, .min_scale = 0.1, .max_scale = 0.3});
  expect_scale(scaler, static_cast<double>(0.1f));
  for (int i = 0; i < 3; ++i) scaler.update(true);
  expect_scale(scaler, static_cast<double>(0.3f));
  LossScaler other({.initial_scale = 0.1, .min_scale = 0.1, .max_scale = 0.3});
  other.load_state_dict(scaler.state_dict());
  expect_scale(other, static_cast<double>(0.3f));
}

TEST(LossScaler, StateContinuesTheRun) {
  const LossScalerOptions options{.initial_scale = 64, .growth_interval = 4};
  LossScaler straight(options), resumed(options);
  const std::vector<bool> steps = {true,  false, true, true, true, true,
                                   false, true,  true, true, true, true};
  for (size_t i = 0; i < steps.size(); ++i) {
    straight.update(steps[i]);
    LossScaler next(options);
    next.load_state_dict(resumed.state_dict());
    next.update(steps[i]);
    resumed.load_state_dict(next.state_dict());
    expect_scale(resumed, straight.scale());
  }
}

TEST(LossScaler, RefusesStatesThatDoNotFit) {
  LossScaler scaler({.initial_scale = 8});
  const StateDict good = scaler.state_dict();
  EXPECT_THAT(message_of<ConfigError>([&] { scaler.load_state_dict({good[0]}); }),
              HasSubstr("'good_steps' is missing"));
  EXPECT_THROW(scaler.load_state_dict({good[0], good[1], {"more", zeros({})}}), ConfigError);
  const Tensor steps = good[1].tensor;
  for (const double bad : {0.0, -1.0, kInfinity, std::nan("")}) {
    EXPECT_THROW(
        scaler.load_state_dict({{"scale", scalar(bad, DType::f64)}, {"good_steps", steps}}),
        ConfigError);
  }
  EXPECT_THROW(scaler.load_state_dict({{"scale", scalar(4)}, {"good_steps", steps}}), DTypeError);
  EXPECT_THROW(scaler.load_state_dict({{"scale", ones({1}, DType::f64)}, {"good_steps", steps}}),
               ShapeError);
  EXPECT_THROW(scaler.load_state_dict({good[0], {"good_steps", scalar(-1, DType::i64)}}),
               ConfigError);
  expect_scale(scaler, 8);
}

TEST(LossScaler, RefusesBadOptions) {
  EXPECT_THROW(LossScaler({.initial_scale = 0}), ConfigError);
  EXPECT_THROW(LossScaler({.initial_scale = 0x1p30}), ConfigError);
  EXPECT_THROW(LossScaler({.growth_factor = 0.5}), ConfigError);
  EXPECT_THROW(LossScaler({.backoff_factor = 1}), ConfigError);
  EXPECT_THROW(LossScaler({.backoff_factor = 0}), ConfigError);
  EXPECT_THROW(LossScaler({.growth_interval = 0}), ConfigError);
  EXPECT_THROW(LossScaler({.max_scale = kInfinity}), ConfigError);
  EXPECT_THROW(LossScaler({.min_scale = 0}), ConfigError);
  EXPECT_THROW(LossScaler({.initial_scale = 1e300, .max_scale = 1e300}), ConfigError);
}

/// Fits y = x w with products in f16 and a loss so small that gradients of f16 vanish.
struct Fit {
  NamedParameter weight = make_parameter("w", random_tensor({4, 8}, DType::f32, 1));
  Tensor target = random_tensor({4, 8}, DType::f32, 2);
  Tensor x = random_tensor({16, 8}, DType::f32, 3).to(DType::f16);
  AdamW optimizer{{{.name = "all", .parameters = {weight}, .weight_decay = 0.0}}, {.eps = 1e-20}};

  static constexpr double kSmall = 1e-7;

  Variable loss() {
    const Variable y = autograd::linear(Variable(x), weight.parameter);
    const Variable error = autograd::to(
        y - Variable(weft::Tensor(autograd::linear(Variable(x), Variable(target)).data())),
        DType::f32);
    return kSmall * autograd::mean(error * error);
  }
};

TEST(LossScaler, TrainsInF16WhereGradientsWouldVanish) {
  Fit plain, scaled;
  LossScaler scaler({.initial_scale = 0x1p24, .growth_interval = 8, .max_scale = 0x1p60});
  const double before = plain.loss().data().item<double>();
  int skipped = 0;
  for (int step = 0; step < 300; ++step) {
    plain.optimizer.zero_grad();
    plain.loss().backward();
    plain.optimizer.step(0.02 * (1 - step / 300.0));

    scaled.optimizer.zero_grad();
    scaled.loss().backward(scaler.scale_tensor());
    const Tensor norm = grad_norm_tensor({scaled.weight});
    scaled.optimizer.step(0.02 * (1 - step / 300.0),
                          clip_scale_tensor(norm, 1, scaler.inverse_scale_tensor()));
    const bool is_finite = std::isfinite(norm.item<double>());
    if (!is_finite) {
      scaled.optimizer.revert_step_count();
      ++skipped;
    }
    scaler.update(is_finite);
  }
  EXPECT_LT(scaled.loss().data().item<double>(), 1e-2 * before);
  EXPECT_GT(plain.loss().data().item<double>(), 0.5 * before);
  EXPECT_GT(skipped, 0);  // it grew until gradients overflowed
  const StateDict state = scaled.optimizer.state_dict();
  EXPECT_EQ(state.back().name, "w/step");
  EXPECT_EQ(state.back().tensor.item<int64_t>(), 300 - skipped);
}

}  // namespace
}  // namespace weft::optim
