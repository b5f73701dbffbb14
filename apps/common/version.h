#pragma once

#include <string>

namespace weft::apps {

/// "0.1.0 (1a2b3c4)": the version of the project and, in a git checkout, the revision.
std::string version();

}  // namespace weft::apps
