#include "weft/optim/schedule.h"

#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "weft/tensor/check.h"

namespace weft::optim {
namespace {

constexpr std::array<std::pair<ScheduleKind, std::string_view>, 4> kNames = {{
    {ScheduleKind::constant, "constant"},
    {ScheduleKind::linear, "linear"},
    {ScheduleKind::cosine, "cosine"},
    {ScheduleKind::wsd, "wsd"},
}};

}  // namespace

std::string_view to_string(ScheduleKind kind) {
  for (const auto& [known, name] : kNames)
    if (known == kind) return name;
  throw_error<ConfigError>("schedule: {} is no ScheduleKind", static_cast<int>(kind));
}

ScheduleKind parse_schedule_kind(std::string_view name) {
  for (const auto& [kind, known] : kNames)
    if (known == name) return kind;
  throw_error<ConfigError>("unknown schedule '{}'; known are constant, linear, cosine, wsd", name);
}

Schedule::Schedule(const ScheduleOptions& options) : options_(options) {
  const std::string_view kind = to_string(options.kind);
  WEFT_CHECK(std::isfinite(options.lr) && options.lr >= 0, ConfigError,
             "schedule {}: lr must be finite and not negative, got {}", kind, options.lr);
  WEFT_CHECK(options.warmup_steps >= 0, ConfigError,
             "schedule {}: warmup_steps must not be negative, got {}", kind, options.warmup_steps);
  if (options.kind == ScheduleKind::constant) return;
  WEFT_CHECK(options.min_lr >= 0 && options.min_lr <= options.lr, ConfigError,
             "schedule {}: min_lr must lie between 0 and lr, got min_lr {} with lr {}", kind,
             options.min_lr, options.lr);
  WEFT_CHECK(options.max_steps > 0, ConfigError, "schedule {}: max_steps must be above 0, got {}",
             kind, options.max_steps);
  WEFT_CHECK(options.warmup_steps <= options.max_steps, ConfigError,
             "schedule {}: warmup_steps {} exceed max_steps {}", kind, options.warmup_steps,
             options.max_steps);
  if (options.kind != ScheduleKind::wsd) return;
  WEFT_CHECK(options.decay_steps > 0, ConfigError,
             "schedule wsd: decay_steps must be above 0, got {}", options.decay_steps);
  WEFT_CHECK(options.decay_steps <= options.max_steps - options.warmup_steps, ConfigError,
             "schedule wsd: warmup_steps {} and decay_steps {} together exceed max_steps {}",
             options.warmup_steps, options.decay_steps, options.max_steps);
}

double Schedule::lr(int64_t step) const {
  WEFT_CHECK(step >= 0, ConfigError, "schedule {}: step must not be negative, got {}",
             to_string(options_.kind), step);
  const ScheduleOptions& o = options_;
  if (step < o.warmup_steps)
    return o.lr * static_cast<double>(step + 1) / static_cast<double>(o.warmup_steps);
  if (o.kind == ScheduleKind::constant) return o.lr;
  if (step >= o.max_steps) return o.min_lr;
  const int64_t start = o.kind == ScheduleKind::wsd ? o.max_steps - o.decay_steps : o.warmup_steps;
  if (step <= start) return o.lr;
  const double progress =
      static_cast<double>(step - start) / static_cast<double>(o.max_steps - start);
  const double remaining = o.kind == ScheduleKind::cosine
                               ? 0.5 * (1 + std::cos(std::numbers::pi * progress))
                               : 1 - progress;
  return o.min_lr + (o.lr - o.min_lr) * remaining;
}

}  // namespace weft::optim
