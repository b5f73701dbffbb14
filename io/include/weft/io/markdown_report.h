#pragma once

#include <string>
#include <utility>
#include <vector>

#include "weft/io/metrics.h"

namespace weft::io {

/// What a report in Markdown says besides what the metrics do.
struct MarkdownContent {
  std::string title;
  std::string intro = {};                                  ///< Markdown, below the title
  std::vector<std::pair<std::string, std::string>> facts;  ///< "parameters", "1.2 M"
  std::string chart_file;                                  ///< the picture, as the page links it
  double tokens_per_step = 0;
  std::string config = {};  ///< text of config.ini
};

/// A page for a repository: facts, the charts, a table of losses, speed and memory over the run,
/// what speed and memory did from beginning to end, and the config.
std::string make_markdown_report(const MarkdownContent& content, const MetricsTable& metrics);

/// The charts of that page as one SVG file: loss, speed, memory.
std::string make_report_charts(const std::string& title, const MetricsTable& metrics);

}  // namespace weft::io
