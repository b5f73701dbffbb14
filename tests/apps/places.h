#pragma once

// One test body over the devices on which commands compute.
#include <ostream>
#include <string>

#include <gtest/gtest.h>

#include "weft/tensor/device.h"

#include "weft_process.h"

namespace weft::apps {

/// Where and how the commands of a test compute.
struct Place {
  const char* name;
  Arguments arguments = {};  ///< of `weft train`, behind its others
  bool gpu = false;

  /// Why nothing computes there on this machine; empty where something does.
  std::string unavailable() const {
    return gpu ? unavailable_reason({DeviceType::cuda, 0}) : std::string();
  }
  ProcessOptions options() const {
    // A GPU's driver takes seconds to begin where other processes use it.
    return {.timeout = gpu ? 300.0 : 60.0, .gpu = gpu};
  }
};

inline void PrintTo(const Place& place, std::ostream* out) {
  *out << place.name;
}

inline std::string name_of(const testing::TestParamInfo<Place>& info) {
  return info.param.name;
}

/// Runs for each place that this machine has; `Base` is a fixture.
template <class Base = testing::Test>
class PlaceTest : public Base, public testing::WithParamInterface<Place> {
 protected:
  void SetUp() override {
    const std::string reason = GetParam().unavailable();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }

  /// `weft train` by `arguments`, and those of the place, to its end.
  static Outcome train(const std::string& data, const std::filesystem::path& out_dir,
                       const Arguments& arguments) {
    return weft(train_arguments(data, out_dir, joined(arguments, GetParam().arguments)),
                GetParam().options());
  }
};

}  // namespace weft::apps
