#pragma once

namespace weft::apps {

/// Seconds since this process was started, loading of libraries included, to a hundredth.
double process_seconds();

}  // namespace weft::apps
