#include "weft/optim/schedule.h"

#include <cmath>
#include <limits>

#include "weft/tensor/error.h"

#include "optim_test_support.h"

namespace weft::optim {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(Schedule, NamesGoBothWays) {
  for (const ScheduleKind kind :
       {ScheduleKind::constant, ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::wsd})
    EXPECT_EQ(parse_schedule_kind(to_string(kind)), kind);
  EXPECT_THAT(message_of<ConfigError>([] { parse_schedule_kind("cosin"); }),
              AllOf(HasSubstr("'cosin'"), HasSubstr("constant, linear, cosine, wsd")));
}

TEST(Schedule, WarmupRisesEvenlyAndItsLastStepHasThePeak) {
  for (const ScheduleKind kind :
       {ScheduleKind::constant, ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::wsd}) {
    const Schedule schedule({.kind = kind,
                             .lr = 0.8,
                             .min_lr = 0.1,
                             .warmup_steps = 4,
                             .max_steps = 20,
                             .decay_steps = 5});
    EXPECT_DOUBLE_EQ(schedule.lr(0), 0.2);
    EXPECT_DOUBLE_EQ(schedule.lr(1), 0.4);
    EXPECT_DOUBLE_EQ(schedule.lr(2), 0.6);
    EXPECT_DOUBLE_EQ(schedule.lr(3), 0.8);
    EXPECT_DOUBLE_EQ(schedule.lr(4), 0.8);
  }
}

TEST(Schedule, ConstantStaysForEver) {
  const Schedule schedule({.kind = ScheduleKind::constant, .lr = 0.5});
  for (const int64_t step : {int64_t{0}, int64_t{1}, int64_t{1} << 60})
    EXPECT_EQ(schedule.lr(step), 0.5);
}

TEST(Schedule, LinearFallsEvenly) {
  const Schedule schedule(
      {.kind = ScheduleKind::linear, .lr = 1, .min_lr = 0.2, .warmup_steps = 2, .max_steps = 10});
  for (int64_t step = 2; step <= 10; ++step) {
    EXPECT_NEAR(schedule.lr(step), 1 - 0.1 * static_cast<double>(step - 2), 1e-15) << step;
  }
  EXPECT_EQ(schedule.lr(10), 0.2);
  EXPECT_EQ(schedule.lr(1000), 0.2);
}

TEST(Schedule, CosineHasItsMiddleHalfWay) {
  const Schedule schedule({.kind = ScheduleKind::cosine, .lr = 3, .min_lr = 1, .max_steps = 8});
  EXPECT_EQ(schedule.lr(0), 3);
  EXPECT_NEAR(schedule.lr(2), 2 + std::sqrt(0.5), 1e-14);
  EXPECT_NEAR(schedule.lr(4), 2, 1e-14);
  EXPECT_NEAR(schedule.lr(6), 2 - std::sqrt(0.5), 1e-14);
  EXPECT_EQ(schedule.lr(8), 1);
  for (int64_t step = 1; step <= 8; ++step) EXPECT_LT(schedule.lr(step), schedule.lr(step - 1));
}

TEST(Schedule, WsdHoldsThePeakUntilTheDecay) {
  const Schedule schedule({.kind = ScheduleKind::wsd,
                           .lr = 1,
                           .min_lr = 0.5,
                           .warmup_steps = 3,
                           .max_steps = 20,
                           .decay_steps = 5});
  for (int64_t step = 3; step <= 15; ++step) EXPECT_EQ(schedule.lr(step), 1) << step;
  EXPECT_NEAR(schedule.lr(16), 0.9, 1e-15);
  EXPECT_NEAR(schedule.lr(19), 0.6, 1e-15);
  EXPECT_EQ(schedule.lr(20), 0.5);
}

TEST(Schedule, EdgesOfTheCombinations) {
  // All warm-up, and a decay that begins where the warm-up ends.
  const Schedule ramp({.kind = ScheduleKind::cosine, .lr = 1, .warmup_steps = 5, .max_steps = 5});
  EXPECT_EQ(ramp.lr(4), 1);
  EXPECT_EQ(ramp.lr(5), 0);
  const Schedule tent(
      {.kind = ScheduleKind::wsd, .lr = 1, .warmup_steps = 2, .max_steps = 6, .decay_steps = 4});
  EXPECT_EQ(tent.lr(2), 1);
  EXPECT_NEAR(tent.lr(3), 0.75, 1e-15);
  const Schedule single({.kind = ScheduleKind::linear, .lr = 1, .max_steps = 1});
  EXPECT_EQ(single.lr(0), 1);
}

TEST(Schedule, RefusesBadCombinationsWithTheirValues) {
  const auto message = [](ScheduleOptions options) {
    return message_of<ConfigError>([&] { Schedule schedule(options); });
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(message({.warmup_steps = 11, .max_steps = 10}),
              AllOf(HasSubstr("cosine"), HasSubstr("warmup_steps 11 exceed max_steps 10")));
  EXPECT_THAT(
      message({.kind = ScheduleKind::wsd, .warmup_steps = 6, .max_steps = 10, .decay_steps = 5}),
      AllOf(HasSubstr("6"), HasSubstr("5"), HasSubstr("10")));
  EXPECT_THAT(message({.kind = ScheduleKind::wsd, .max_steps = 10}), HasSubstr("decay_steps"));
  EXPECT_THAT(message({.lr = -1, .max_steps = 10}), HasSubstr("got -1"));
  EXPECT_THAT(message({.lr = nan, .max_steps = 10}), HasSubstr("lr"));
  EXPECT_THAT(message({.lr = 0.1, .min_lr = 0.2, .max_steps = 10}),
              HasSubstr("min_lr 0.2 with lr 0.1"));
  EXPECT_THAT(message({.min_lr = nan, .max_steps = 10}), HasSubstr("min_lr"));
  EXPECT_THAT(message({.max_steps = 0}), HasSubstr("max_steps"));
  EXPECT_THAT(message({.warmup_steps = -1, .max_steps = 10}), HasSubstr("got -1"));
  EXPECT_THAT(message_of<ConfigError>([] { (void)Schedule({.max_steps = 10}).lr(-1); }),
              HasSubstr("step must not be negative"));
}

}  // namespace
}  // namespace weft::optim
