#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "weft/tensor/device.h"

// Where the time of a run goes: ranges that functions open while they work, timed between events on
// the device's stream (by the clock on the CPU). Kernels, modules and backward functions open them
// by themselves; the cost of one that is not timed is one relaxed load.
namespace weft::profiler {

namespace detail {
extern std::atomic<bool> running;
}  // namespace detail

/// Whether ranges are being timed. What would hide them, such as the replay of a CUDA graph, is to
/// be left out then.
inline bool enabled() noexcept {
  return detail::running.load(std::memory_order_relaxed);
}

enum class RangeKind : unsigned char {
  op,       ///< one call of a kernel
  module,   ///< a part of a model; names of nested ones are joined by dots
  backward  ///< the gradient of one recorded function
};

/// The module whose range is open on this thread, to attribute later work to it; 0 for none.
int current_module() noexcept;

/// Times its scope. On a GPU the range holds the work that the scope puts on the current stream. If
/// the tools extension of CUDA is there, profilers such as Nsight see it under the same name.
class Range {
 public:
  /// `device` is where the work runs; work elsewhere than on start()'s device is not counted.
  Range(RangeKind kind, std::string_view name, Device device) {
    if (enabled()) [[unlikely]]
      begin(kind, name, device, 0);
  }
  /// A part of a model, on start()'s device.
  explicit Range(std::string_view module_name) {
    if (enabled()) [[unlikely]]
      begin(RangeKind::module, module_name);
  }
  /// The gradient of function `name`, recorded while current_module() was `module`.
  Range(std::string_view name, int module) {
    if (enabled()) [[unlikely]]
      begin(RangeKind::backward, name, module);
  }
  ~Range() {
    if (open_) [[unlikely]]
      end();
  }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

 private:
  void begin(RangeKind kind, std::string_view name, Device device, int module);
  void begin(RangeKind kind, std::string_view name, int module = 0);
  void end() noexcept;

  bool open_ = false;
};

/// Times of all ranges of one name.
struct Row {
  std::string name;
  int64_t calls = 0;
  double milliseconds = 0;
  double backward_milliseconds = 0;  ///< of modules: gradients of what was recorded inside
};

struct Report {
  Device device;
  double milliseconds = 0;    ///< of all ranges that lie in no other
  std::vector<Row> ops;       ///< without ops inside them; the longest first
  std::vector<Row> modules;   ///< with what lies inside them; in order of first use
  std::vector<Row> backward;  ///< without backward functions inside them; the longest first
};

/// From now on, ranges that this thread opens are timed. Throws DeviceError where the device is not
/// available, and ConfigError where they are timed already.
void start(Device device);
/// Waits for the device, and no longer times ranges.
Report stop();

/// Three tables: ops, modules with forward and backward time, and backward functions, each with
/// calls, milliseconds and the share of the whole.
std::string to_text(const Report& report);

}  // namespace weft::profiler
