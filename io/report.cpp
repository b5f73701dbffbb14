#include "weft/io/report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <string_view>

#include <fmt/format.h>

#include "weft/io/atomic_file.h"
#include "weft/io/svg_chart.h"

#include "file_descriptor.h"
#include "metric_series.h"
#include "utf8.h"

namespace weft::io {
namespace {

constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; }
body { font-family: sans-serif; max-width: 1340px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: 0.2em 1em 0.2em 0; }
th { font-weight: normal; opacity: 0.7; }
.charts { display: flex; flex-wrap: wrap; gap: 1em; }
svg { max-width: 100%; height: auto; }
pre { overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; padding: 1em;
      border: 1px solid currentColor; border-radius: 4px; opacity: 0.9; }
)";

/// Charts with more than one line, or with a title and unit of their own.
struct KnownChart {
  std::string_view title;
  std::string_view unit;
  std::array<std::string_view, 2> columns;
  bool smooth;
};
constexpr std::array kKnownCharts = {
    KnownChart{"Loss", "nats per token", {"train/loss", "eval/loss"}, true},
    KnownChart{"Held-out bits per byte", "", {"eval/bits_per_byte", ""}, false},
    KnownChart{"Learning rate", "", {"train/lr", ""}, false},
    KnownChart{"Gradient norm", "", {"train/grad_norm", ""}, true},
    KnownChart{"Speed", "tokens per second", {"train/tokens_per_sec", ""}, true},
    KnownChart{"Memory", "GB", {"train/memory_gb", "train/peak_gb"}, false},
};

std::string charts_of(const MetricsTable& metrics) {
  std::string charts;
  std::set<std::string_view> drawn;
  const auto add = [&](ChartOptions options, std::vector<ChartSeries> series) {
    std::erase_if(series, [](const ChartSeries& line) { return line.x.empty(); });
    if (!series.empty()) charts += line_chart(options, series);
  };
  for (const KnownChart& chart : kKnownCharts) {
    std::vector<ChartSeries> series;
    for (const std::string_view column : chart.columns) {
      if (!column.empty()) series.push_back(series_of(metrics, column));
      drawn.insert(column);
    }
    add({.title = std::string(chart.title),
         .y_label = std::string(chart.unit),
         .smooth = chart.smooth},
        std::move(series));
  }
  for (const std::string& column : metrics.columns) {
    if (drawn.contains(column)) continue;
    add({.title = column, .smooth = true}, {series_of(metrics, column)});
  }
  return charts;
}

/// What the metrics themselves say.
std::vector<std::pair<std::string, std::string>> facts_of(const MetricsTable& metrics) {
  std::vector<std::pair<std::string, std::string>> facts;
  if (metrics.rows.empty()) return facts;
  facts.emplace_back("last step", fmt::format("{}", metrics.rows.back().step));
  const auto add = [&](std::string_view column, const char* name, bool least) {
    const ChartSeries series = series_of(metrics, column);
    if (series.y.empty()) return;
    const auto best = std::min_element(series.y.begin(), series.y.end());
    facts.emplace_back(name,
                       least ? fmt::format("{:.4g} at step {}", *best,
                                           series.x[static_cast<size_t>(best - series.y.begin())])
                             : fmt::format("{:.4g}", series.y.back()));
  };
  add("train/loss", "last training loss", false);
  add("eval/loss", "best held-out loss", true);
  add("eval/bits_per_byte", "best held-out bits per byte", true);
  add("train/tokens_per_sec", "last tokens per second", false);
  return facts;
}

/// Samples may hold any bytes; a page must be UTF-8.
std::string valid_utf8(std::string_view text) {
  std::string valid;
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    const bool keep = c.bytes > 0 && (c.value >= 0x20 || c.value == '\n' || c.value == '\t');
    constexpr uint32_t kReplacement = 0xFFFD;
    append_utf8(keep ? c.value : kReplacement, valid);
    text.remove_prefix(std::max<size_t>(1, c.bytes));
  }
  return valid;
}

std::string section(std::string_view title, std::string_view text) {
  if (text.empty()) return {};
  return fmt::format("<h2>{}</h2>\n<pre>{}</pre>\n", title, escape_markup(valid_utf8(text)));
}

std::string read_if_there(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error) ? read_small_file(path) : std::string();
}

}  // namespace

std::string make_report(const ReportContent& content, const MetricsTable& metrics) {
  const std::string title = escape_markup(valid_utf8(content.title));
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n<title>{0}</title>\n"
      "<style>{1}</style>\n</head>\n<body>\n<h1>{0}</h1>\n<table>\n",
      title, kStyle);
  std::vector<std::pair<std::string, std::string>> facts = content.facts;
  for (auto& fact : facts_of(metrics)) facts.push_back(std::move(fact));
  for (const auto& [name, value] : facts) {
    page += fmt::format("<tr><th>{}</th><td>{}</td></tr>\n", escape_markup(valid_utf8(name)),
                        escape_markup(valid_utf8(value)));
  }
  page += "</table>\n<div class=\"charts\">\n" + charts_of(metrics) + "</div>\n";
  page += section("Samples", content.samples);
  page += section("Config", content.config);
  return page + "</body>\n</html>\n";
}

void write_report(const RunFolder& run,
                  const std::vector<std::pair<std::string, std::string>>& facts) {
  std::error_code error;
  const MetricsTable metrics =
      std::filesystem::exists(run.metrics(), error) ? read_metrics(run.metrics()) : MetricsTable();
  const ReportContent content{.title = "Run " + run.path().string(),
                              .facts = facts,
                              .config = read_if_there(run.config()),
                              .samples = read_if_there(run.samples())};
  write_file_atomically(run.report(), make_report(content, metrics));
}

}  // namespace weft::io
