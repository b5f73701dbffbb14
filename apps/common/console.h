#pragma once

#include <memory>
#include <string>

namespace spdlog {
class logger;
}

namespace weft::apps {

class Options;

/// What the user sees while a command works. Results go to stdout and are none of its business;
/// this writes to stderr and, once attached, to a log file.
class Console {
 public:
  struct Settings {
    bool quiet = false;    ///< errors alone
    bool verbose = false;  ///< debugging lines too
    std::string color =
        "auto";  ///< auto, always, never; auto respects NO_COLOR and needs a terminal
    std::string
        log_level;  ///< trace, debug, info, warning, error; empty leaves it to the flags above

    /// -q, -v, --color and --log-level (WEFT_LOG_LEVEL).
    void add_to(Options& options);
  };

  explicit Console(const Settings& settings);
  ~Console();

  /// Appends everything from now on to this file too, with times.
  void attach_file(const std::string& path);

  void info(const std::string& line);
  void debug(const std::string& line);
  void warn(const std::string& line);
  void error(const std::string& line);
  /// A status that the next line replaces; shown on terminals only.
  void status(const std::string& line);

 private:
  void clear_status();

  std::shared_ptr<spdlog::logger> logger_;
  bool is_terminal_;
  bool shows_status_ = false;
  bool wants_status_;
};

/// "1m18s", "2h05m", "42s".
std::string format_duration(double seconds);
/// 2140000000 -> "2.1 GB".
std::string format_bytes(double bytes);
/// 398123 -> "398k".
std::string format_count(double count);

}  // namespace weft::apps
