#pragma once

#include <cstdint>
#include <string_view>

namespace weft::optim {

enum class ScheduleKind {
  constant,  ///< lr for ever
  linear,    ///< straight from lr down to min_lr at max_steps
  cosine,    ///< half a cosine from lr down to min_lr at max_steps
  wsd,       ///< warm-up, stable, decay: lr, then straight down to min_lr in the last decay_steps
};

/// "constant", "linear", "cosine", "wsd".
std::string_view to_string(ScheduleKind kind);
/// Inverse of to_string. Throws ConfigError listing the known names.
ScheduleKind parse_schedule_kind(std::string_view name);

struct ScheduleOptions {
  ScheduleKind kind = ScheduleKind::cosine;
  double lr = 3e-4;          ///< the peak
  double min_lr = 0;         ///< from step max_steps on; unused by constant
  int64_t warmup_steps = 0;  ///< steps in which the rate rises evenly to the peak
  int64_t max_steps = 0;     ///< length of the run; unused by constant
  int64_t decay_steps = 0;   ///< wsd only
};

/// The learning rate as a pure function of the step, so that a resumed run needs no state.
///
/// Step s counts from 0. Warm-up gives lr (s + 1) / warmup_steps: the first step already learns,
/// and the last warm-up step has the peak. The decay starts from the peak at the first step after
/// the warm-up (wsd: at max_steps - decay_steps) and would reach min_lr at step max_steps.
class Schedule {
 public:
  /// Throws ConfigError, with the values, on rates that are negative, not finite or with min_lr
  /// above lr, negative step counts, max_steps 0 where the kind needs it, warmup_steps above
  /// max_steps, and for wsd decay_steps 0 or warmup_steps + decay_steps above max_steps.
  explicit Schedule(const ScheduleOptions& options);

  /// Throws ConfigError on a negative step.
  double lr(int64_t step) const;
  const ScheduleOptions& options() const { return options_; }

 private:
  ScheduleOptions options_;
};

}  // namespace weft::optim
