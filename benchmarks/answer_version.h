#pragma once

#include <cstdio>
#include <string_view>

#include "common/version.h"

namespace weft::bench {

/// Prints the version of the build and returns true where the one argument is --version, so that a
/// file of results can name the revision of what it measured.
inline bool answer_version(int argc, char** argv) {
  if (argc != 2 || std::string_view(argv[1]) != "--version") return false;
  std::printf("weft %s\n%s\n", apps::version().c_str(), apps::compilers().c_str());
  return true;
}

}  // namespace weft::bench
