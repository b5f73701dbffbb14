#include "common/profile.h"

#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "weft/io/atomic_file.h"
#include "weft/tensor/error.h"
#include "weft/tensor/profiler.h"

#include "common/machine.h"

namespace weft::apps {

void add_profile_option(Options& options, std::string* target) {
  options
      .add("profile", target,
           "table of the time in each op and part of the model, at the end, in this file or on "
           "stderr; on a GPU steps are then launched op by op")
      .value_if_bare("-")
      .not_in_config();
}

ProfileRun::ProfileRun(std::string target, Device device) : target_(std::move(target)) {
  if (target_.empty()) return;
  const std::filesystem::path folder = std::filesystem::absolute(target_).parent_path();
  if (target_ != "-" &&
      (!std::filesystem::is_directory(folder) || std::filesystem::is_directory(target_))) {
    throw UsageError(fmt::format("--profile: '{}' cannot be written", target_));
  }
  profiler::start(device);
  runs_ = true;
}

ProfileRun::~ProfileRun() {
  if (!runs_) return;
  try {
    profiler::stop();
  } catch (const Error&) {
    // What went wrong is on its way already.
  }
}

void ProfileRun::write(Console& console) {
  if (!runs_) return;
  runs_ = false;
  const profiler::Report report = profiler::stop();
  const std::string text = fmt::format("{:.3f} ms on {}\n\n{}", report.milliseconds,
                                       describe_device(report.device), to_text(report));
  if (target_ == "-") {
    console.info("profile: " + text);
    return;
  }
  io::write_file_atomically(target_, text);
  console.info("profile in " + target_);
}

}  // namespace weft::apps
