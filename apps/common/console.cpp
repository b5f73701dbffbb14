#include "common/console.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <unistd.h>

#include "common/options.h"

namespace weft::apps {

void Console::Settings::add_to(Options& options) {
  options.group("Messages");
  options.add("quiet", &quiet, "print errors alone").short_name('q').not_in_config();
  options.add("verbose", &verbose, "print debugging lines too").short_name('v').not_in_config();
  options.add("color", &color, "colour on stderr", {"auto", "always", "never"}).not_in_config();
  options
      .add("log-level", &log_level, "least level shown",
           {"", "trace", "debug", "info", "warning", "error"})
      .environment("WEFT_LOG_LEVEL")
      .not_in_config();
}

Console::Console(const Settings& settings)
    : is_terminal_(isatty(STDERR_FILENO) == 1), wants_status_(!settings.quiet) {
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  const bool color = settings.color == "always" || (settings.color == "auto" && is_terminal_ &&
                                                    std::getenv("NO_COLOR") == nullptr);
  sink->set_color_mode(color ? spdlog::color_mode::always : spdlog::color_mode::never);
  sink->set_pattern("%^%v%$");
  sink->set_color(spdlog::level::info, "");  // plain text stays plain
  spdlog::level::level_enum level = spdlog::level::info;
  if (settings.verbose) level = spdlog::level::debug;
  if (settings.quiet) level = spdlog::level::err;
  if (!settings.log_level.empty()) level = spdlog::level::from_str(settings.log_level);
  sink->set_level(level);
  logger_ = std::make_shared<spdlog::logger>("weft", sink);
  logger_->set_level(std::min(level, spdlog::level::info));
  logger_->flush_on(spdlog::level::info);
}

Console::~Console() {
  clear_status();
}

void Console::attach_file(const std::string& path) {
  auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
  sink->set_pattern("[%Y-%m-%d %H:%M:%S] %v");
  logger_->sinks().push_back(std::move(sink));
}

void Console::info(const std::string& line) {
  clear_status();
  logger_->info("{}", line);
}

void Console::debug(const std::string& line) {
  clear_status();
  logger_->debug("{}", line);
}

void Console::warn(const std::string& line) {
  clear_status();
  logger_->warn("warning: {}", line);
}

void Console::error(const std::string& line) {
  clear_status();
  logger_->error("error: {}", line);
}

void Console::status(const std::string& line) {
  if (!is_terminal_ || !wants_status_) return;
  std::fputs(fmt::format("\r\x1b[K{}", line).c_str(), stderr);
  std::fflush(stderr);
  shows_status_ = true;
}

void Console::clear_status() {
  if (!shows_status_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  shows_status_ = false;
}

std::string format_duration(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(std::max(seconds, 0.0)));
  if (total < 60) return fmt::format("{}s", total);
  if (total < 3600) return fmt::format("{}m{:02}s", total / 60, total % 60);
  return fmt::format("{}h{:02}m", total / 3600, total / 60 % 60);
}

std::string format_bytes(double bytes) {
  if (bytes < 1e6) return fmt::format("{:.1f} kB", bytes / 1e3);
  if (bytes < 1e9) return fmt::format("{:.1f} MB", bytes / 1e6);
  return fmt::format("{:.1f} GB", bytes / 1e9);
}

std::string format_count(double count) {
  if (count < 1e3) return fmt::format("{:.0f}", count);
  if (count < 1e4) return fmt::format("{:.1f}k", count / 1e3);
  if (count < 1e6) return fmt::format("{:.0f}k", count / 1e3);
  if (count < 1e9) return fmt::format("{:.1f}M", count / 1e6);
  return fmt::format("{:.2f}B", count / 1e9);
}

}  // namespace weft::apps
