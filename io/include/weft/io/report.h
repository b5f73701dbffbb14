#pragma once

#include <string>
#include <utility>
#include <vector>

#include "weft/io/metrics.h"
#include "weft/io/run_folder.h"

namespace weft::io {

/// What a report shows besides its charts.
struct ReportContent {
  std::string title;
  std::vector<std::pair<std::string, std::string>> facts;  ///< "parameters", "1.2 M"
  std::string config;                                      ///< text of config.ini
  std::string samples;                                     ///< text of samples.txt
};

/// One static HTML page: facts, charts of loss, speed, memory and every other metric, samples, and
/// the config. Needs no network: styles and charts are in the page.
std::string make_report(const ReportContent& content, const MetricsTable& metrics);

/// Writes the report.html of a run from its metrics, samples and config. Throws IoError.
void write_report(const RunFolder& run,
                  const std::vector<std::pair<std::string, std::string>>& facts);

}  // namespace weft::io
