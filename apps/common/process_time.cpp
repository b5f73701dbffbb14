#include "common/process_time.h"

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string>

#include <unistd.h>

namespace weft::apps {

double process_seconds() {
  // Field 22 of /proc/self/stat: ticks from the start of the system to that of the process. The
  // name in field 2 may hold blanks and parentheses.
  std::ifstream file("/proc/self/stat");
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(text.substr(name_end + 1));
  constexpr int kFirstField = 3;
  constexpr int kStartTime = 22;
  std::string field;
  for (int i = kFirstField; i <= kStartTime; ++i) fields >> field;
  timespec now = {};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec) -
         std::strtod(field.c_str(), nullptr) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace weft::apps
