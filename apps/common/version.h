#pragma once

#include <string>

namespace weft::apps {

/// "0.1.0 (1a2b3c4)": the version of the project and, in a git checkout, the revision.
std::string version();

/// "GNU 12.2.0, CUDA 13.0.88": the compilers of this build, of CUDA where it has that backend.
std::string compilers();

}  // namespace weft::apps
