#pragma once

#include <string>

#include "weft/tensor/device.h"

#include "common/console.h"
#include "common/options.h"

namespace weft::apps {

/// Adds --profile[=FILE]; `target` becomes "-" without a file.
void add_profile_option(Options& options, std::string* target);

/// For its life, times what runs on a device, as --profile asks for.
class ProfileRun {
 public:
  /// `target` is "" (nothing is timed), "-" for the console, or a file. Throws UsageError where the
  /// file could not be written.
  ProfileRun(std::string target, Device device);
  /// Stops, and forgets what was not written.
  ~ProfileRun();
  ProfileRun(const ProfileRun&) = delete;
  ProfileRun& operator=(const ProfileRun&) = delete;

  /// Stops and writes the tables. Throws IoError.
  void write(Console& console);

 private:
  std::string target_;
  bool runs_ = false;
};

}  // namespace weft::apps
