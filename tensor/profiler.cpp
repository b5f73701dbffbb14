#include "weft/tensor/profiler.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "weft/tensor/check.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/stream.h"

#if defined(WEFT_HAVE_CUDA) && __has_include(<nvtx3/nvToolsExt.h>)
#define WEFT_HAVE_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

namespace weft::profiler {

namespace detail {
std::atomic<bool> running{false};
}  // namespace detail

namespace {

/// Ranges of one kind and name that were opened in the same place.
struct Place {
  RangeKind kind;
  std::string name;
  int parent;
  int module;  // of a module its own number, of a backward function the one it belongs to
  int64_t calls = 0;
  double milliseconds = 0;
  std::vector<int> children{};
};

struct Module {
  std::string path;
  int parent;
};

/// A range between two events.
struct Timed {
  int place;
  std::unique_ptr<Event> begin;
  std::unique_ptr<Event> end;
};

class Profile {
 public:
  explicit Profile(Device device) : device_(device), owner_(std::this_thread::get_id()) {
    check_available(device);
  }

  bool is_mine() const { return std::this_thread::get_id() == owner_; }
  Device device() const { return device_; }
  int module() const { return modules_open_.empty() ? 0 : modules_open_.back(); }

  void begin(RangeKind kind, std::string_view name, int module) {
    if (kind == RangeKind::module) module = module_number(name);
    const int place = place_of(kind, name, module);
    Timed range{place, take_event(), nullptr};
    range.begin->record(current_stream(device_));
    open_.push_back(std::move(range));
    // What backward computes again belongs where it was computed first.
    if (kind != RangeKind::op) modules_open_.push_back(module);
#ifdef WEFT_HAVE_NVTX
    nvtxRangePushA(places_[static_cast<size_t>(place)].name.c_str());
#endif
  }

  void end() {
#ifdef WEFT_HAVE_NVTX
    nvtxRangePop();
#endif
    if (open_.empty()) return;  // of a range from before start()
    Timed range = std::move(open_.back());
    open_.pop_back();
    if (places_[static_cast<size_t>(range.place)].kind != RangeKind::op) modules_open_.pop_back();
    range.end = take_event();
    range.end->record(current_stream(device_));
    done_.push_back(std::move(range));
    // A wait inside a range would be counted as its time.
    constexpr size_t kMany = 1 << 12, kTooMany = 1 << 17;
    if ((open_.empty() && done_.size() >= kMany) || done_.size() >= kTooMany) collect();
  }

  Report report() {
    collect();
    Report report{.device = device_, .ops = {}, .modules = {}, .backward = {}};
    std::map<std::string, Row> ops, backward;
    for (size_t m = 1; m < modules_.size(); ++m) report.modules.push_back({modules_[m].path});
    for (const Place& place : places_) {
      if (place.parent < 0) report.milliseconds += place.milliseconds;
      const double own = place.milliseconds - inner_milliseconds(place);
      if (place.kind == RangeKind::op) add(ops[place.name], place, own);
      if (place.kind == RangeKind::module)
        add(report.modules[static_cast<size_t>(place.module) - 1], place, place.milliseconds);
      if (place.kind != RangeKind::backward) continue;
      add(backward[place.name], place, own);
      for (int m = place.module; m > 0; m = modules_[static_cast<size_t>(m)].parent)
        report.modules[static_cast<size_t>(m) - 1].backward_milliseconds += own;
    }
    report.ops = by_time(std::move(ops));
    report.backward = by_time(std::move(backward));
    return report;
  }

 private:
  static void add(Row& row, const Place& place, double milliseconds) {
    row.calls += place.calls;
    row.milliseconds += milliseconds;
  }

  static std::vector<Row> by_time(std::map<std::string, Row> rows) {
    std::vector<Row> sorted;
    for (auto& [name, row] : rows) {
      row.name = name;
      sorted.push_back(std::move(row));
    }
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const Row& a, const Row& b) { return a.milliseconds > b.milliseconds; });
    return sorted;
  }

  /// Of what inside a place has a row of its own in the same table. What backward computes again
  /// lies in modules, and is theirs.
  double inner_milliseconds(const Place& place) const {
    double sum = 0;
    for (const int child : place.children) {
      const Place& inner = places_[static_cast<size_t>(child)];
      if ((place.kind == RangeKind::op) == (inner.kind == RangeKind::op)) sum += inner.milliseconds;
    }
    return sum;
  }

  int place_of(RangeKind kind, std::string_view name, int module) {
    const int parent = open_.empty() ? -1 : open_.back().place;
    const std::vector<int>& siblings =
        parent < 0 ? roots_ : places_[static_cast<size_t>(parent)].children;
    for (const int sibling : siblings) {
      const Place& place = places_[static_cast<size_t>(sibling)];
      if (place.kind == kind && place.module == module && place.name == name) return sibling;
    }
    const int added = static_cast<int>(places_.size());
    places_.push_back({kind, std::string(name), parent, module});
    (parent < 0 ? roots_ : places_[static_cast<size_t>(parent)].children).push_back(added);
    return added;
  }

  int module_number(std::string_view name) {
    const int parent = module();
    std::string path = modules_[static_cast<size_t>(parent)].path;
    path.append(path.empty() ? "" : ".").append(name);
    const auto [found, is_new] = module_numbers_.emplace(path, static_cast<int>(modules_.size()));
    if (is_new) modules_.push_back({path, parent});
    return found->second;
  }

  std::unique_ptr<Event> take_event() {
    if (free_.empty()) return std::make_unique<Event>(device_, /*timed=*/true);
    std::unique_ptr<Event> event = std::move(free_.back());
    free_.pop_back();
    return event;
  }

  void collect() {
    for (Timed& range : done_) {
      range.end->synchronize();
      Place& place = places_[static_cast<size_t>(range.place)];
      place.milliseconds += range.begin->milliseconds_to(*range.end);
      ++place.calls;
      free_.push_back(std::move(range.begin));
      free_.push_back(std::move(range.end));
    }
    done_.clear();
  }

  const Device device_;
  const std::thread::id owner_;
  std::vector<Place> places_;
  std::vector<int> roots_;
  std::vector<Module> modules_{{"", 0}};  // number 0 is none
  std::map<std::string, int> module_numbers_;
  std::vector<Timed> open_;
  std::vector<int> modules_open_;
  std::vector<Timed> done_;  // in the order of their ends
  std::vector<std::unique_ptr<Event>> free_;
};

std::mutex mutex;
std::unique_ptr<Profile> profile;

/// The profile, where this thread's ranges count. Others find null, also while one ends.
Profile* mine() noexcept {
  const std::lock_guard lock(mutex);
  return profile != nullptr && profile->is_mine() ? profile.get() : nullptr;
}

std::string table(const std::string& title, const std::vector<Row>& rows, bool with_backward,
                  double whole) {
  size_t width = title.size();
  for (const Row& row : rows) width = std::max(width, row.name.size());
  std::string text = fmt::format("{:<{}} {:>9} {:>12}", title, width, "calls",
                                 with_backward ? "forward ms" : "ms");
  if (with_backward) text += fmt::format(" {:>12}", "backward ms");
  text += fmt::format(" {:>7}\n", "share");
  for (const Row& row : rows) {
    const double sum = row.milliseconds + row.backward_milliseconds;
    text += fmt::format("{:<{}} {:>9} {:>12.3f}", row.name, width, row.calls, row.milliseconds);
    if (with_backward) text += fmt::format(" {:>12.3f}", row.backward_milliseconds);
    text += fmt::format(" {:>6.1f}%\n", whole > 0 ? 100 * sum / whole : 0.0);
  }
  return text;
}

}  // namespace

int current_module() noexcept {
  if (!enabled()) return 0;
  const Profile* const here = mine();
  return here != nullptr ? here->module() : 0;
}

void Range::begin(RangeKind kind, std::string_view name, Device device, int module) {
  Profile* const here = mine();
  // What is captured runs later, so that events around it would have no time.
  if (here == nullptr || device != here->device() || is_capturing()) return;
  here->begin(kind, name, module);
  open_ = true;
}

void Range::begin(RangeKind kind, std::string_view name, int module) {
  if (Profile* const here = mine()) begin(kind, name, here->device(), module);
}

void Range::end() noexcept {
  try {
    if (Profile* const here = mine()) here->end();
  } catch (const Error&) {
    // The device has failed, which the next call to it says.
  }
}

void start(Device device) {
  const std::lock_guard lock(mutex);
  WEFT_CHECK(profile == nullptr, ConfigError, "profiler: it runs already");
  profile = std::make_unique<Profile>(device);
  detail::running.store(true);
}

Report stop() {
  const std::lock_guard lock(mutex);
  WEFT_CHECK(profile != nullptr, ConfigError, "profiler: it was not started");
  detail::running.store(false);
  const std::unique_ptr<Profile> ended = std::move(profile);
  return ended->report();
}

std::string to_text(const Report& report) {
  return table("op", report.ops, false, report.milliseconds) + "\n" +
         table("module", report.modules, true, report.milliseconds) + "\n" +
         table("backward of", report.backward, false, report.milliseconds);
}

}  // namespace weft::profiler
