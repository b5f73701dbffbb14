#include "weft/io/markdown_report.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "weft/io/svg_chart.h"

#include "metric_series.h"

namespace weft::io {
namespace {

constexpr const char* kLoss = "train/loss";
constexpr const char* kHeldOut = "eval/loss";
constexpr const char* kBitsPerByte = "eval/bits_per_byte";
constexpr const char* kSpeed = "train/tokens_per_sec";
constexpr const char* kMemory = "train/memory_gb";
constexpr const char* kPeak = "train/peak_gb";
constexpr const char* kHost = "train/host_gb";

/// The value at quantile `q` of numbers in any order; 0 where there are none.
double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const auto place = static_cast<std::ptrdiff_t>(q * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), values.begin() + place, values.end());
  return values[static_cast<size_t>(place)];
}

/// The values of the steps after `from`, up to `to`.
std::vector<double> between(const ChartSeries& series, double from, double to) {
  std::vector<double> values;
  for (size_t i = 0; i < series.x.size(); ++i) {
    if (series.x[i] > from && series.x[i] <= to) values.push_back(series.y[i]);
  }
  return values;
}

std::optional<double> at(const ChartSeries& series, double step) {
  const auto found = std::lower_bound(series.x.begin(), series.x.end(), step);
  if (found == series.x.end() || *found != step) return std::nullopt;
  return series.y[static_cast<size_t>(found - series.x.begin())];
}

int64_t last_step(const MetricsTable& metrics) {
  return metrics.rows.empty() ? 0 : metrics.rows.back().step;
}

/// The steps before this one, of warming up, are left out of the charts and of what is said of
/// speed.
int64_t settled_step(const MetricsTable& metrics) {
  return last_step(metrics) / 100 + 2;
}

/// Steps of evaluations, or of any rows where there were none; about `most`, evenly spread, with
/// the last one.
std::vector<double> table_steps(const MetricsTable& metrics, size_t most) {
  std::vector<double> steps = series_of(metrics, kHeldOut).x;
  if (steps.empty()) steps = series_of(metrics, kLoss).x;
  const size_t stride = (steps.size() + most - 1) / std::max<size_t>(1, most);
  std::vector<double> chosen;
  for (size_t i = 0; i < steps.size(); i += std::max<size_t>(1, stride))
    chosen.push_back(steps[steps.size() - 1 - i]);
  std::reverse(chosen.begin(), chosen.end());
  return chosen;
}

struct Column {
  std::string title;
  std::vector<std::string> cells;
};

std::string to_markdown(const std::vector<Column>& columns) {
  std::string text = "|";
  for (const Column& column : columns) text += fmt::format(" {} |", column.title);
  text += "\n|";
  for (size_t i = 0; i < columns.size(); ++i) text += "---|";
  text += '\n';
  for (size_t row = 0; !columns.empty() && row < columns[0].cells.size(); ++row) {
    text += '|';
    for (const Column& column : columns) text += fmt::format(" {} |", column.cells[row]);
    text += '\n';
  }
  return text;
}

std::string course_table(const MetricsTable& metrics, double tokens_per_step) {
  constexpr size_t kRows = 14;
  const std::vector<double> steps = table_steps(metrics, kRows);
  std::vector<Column> columns;
  const auto add = [&](const char* title, auto&& cell) {
    Column column{title, {}};
    for (size_t i = 0; i < steps.size(); ++i)
      column.cells.push_back(cell(i == 0 ? 0.0 : steps[i - 1], steps[i]));
    columns.push_back(std::move(column));
  };
  const auto add_values = [&](const char* title, const char* metric, const char* format) {
    const ChartSeries series = series_of(metrics, metric);
    if (series.x.empty()) return;
    add(title, [&](double, double step) {
      const std::optional<double> value = at(series, step);
      return value ? fmt::format(fmt::runtime(format), *value) : std::string();
    });
  };
  add("step", [](double, double step) { return fmt::format("{:.0f}", step); });
  if (tokens_per_step > 0) {
    add("tokens", [&](double, double step) {
      return fmt::format("{:.1f} M", 1e-6 * step * tokens_per_step);
    });
  }
  const ChartSeries loss = series_of(metrics, kLoss);
  if (!loss.x.empty()) {
    // Of single steps losses are noise.
    const double span = std::max(1.0, static_cast<double>(last_step(metrics)) / 100);
    add("training loss", [&](double, double step) {
      const std::vector<double> near = between(loss, step - span, step);
      const double sum = std::accumulate(near.begin(), near.end(), 0.0);
      return near.empty() ? std::string()
                          : fmt::format("{:.4f}", sum / static_cast<double>(near.size()));
    });
  }
  add_values("held-out loss", kHeldOut, "{:.4f}");
  add_values("bits per byte", kBitsPerByte, "{:.4f}");
  const ChartSeries speed = series_of(metrics, kSpeed);
  if (!speed.x.empty()) {
    add("tokens per second", [&](double from, double to) {
      return fmt::format("{:.0f}", quantile(between(speed, from, to), 0.5));
    });
  }
  add_values("memory, GB", kMemory, "{:.3f}");
  add_values("on the host, GB", kHost, "{:.3f}");
  return to_markdown(columns);
}

/// Where a column began, ended and was in between.
std::string drift_of(const MetricsTable& metrics, const char* metric, const char* name) {
  const ChartSeries series = series_of(metrics, metric, settled_step(metrics));
  if (series.y.empty()) return {};
  const auto [least, most] = std::minmax_element(series.y.begin(), series.y.end());
  return fmt::format(
      "- {}: {:.3f} GB at step {:.0f}, {:.3f} GB at step {:.0f}; between {:.3f} and {:.3f} GB on "
      "the way.\n",
      name, series.y.front(), series.x.front(), series.y.back(), series.x.back(), *least, *most);
}

std::string findings(const MetricsTable& metrics, double tokens_per_step) {
  std::string text;
  const ChartSeries held_out = series_of(metrics, kHeldOut);
  if (!held_out.y.empty()) {
    const auto best = std::min_element(held_out.y.begin(), held_out.y.end());
    const double step = held_out.x[static_cast<size_t>(best - held_out.y.begin())];
    const std::optional<double> bits = at(series_of(metrics, kBitsPerByte), step);
    text += fmt::format("- Held-out loss: lowest {:.4f}{} at step {:.0f}, {:.4f} at the end.\n",
                        *best, bits ? fmt::format(" ({:.4f} bits per byte)", *bits) : "", step,
                        held_out.y.back());
  }
  const ChartSeries speed = series_of(metrics, kSpeed);
  const ChartSeries settled = series_of(metrics, kSpeed, settled_step(metrics));
  if (!settled.y.empty()) {
    text += fmt::format(
        "- Speed: {:.0f} tokens per second (median of steps), {:.0f} and {:.0f} at the 5th and "
        "95th percentile",
        quantile(settled.y, 0.5), quantile(settled.y, 0.05), quantile(settled.y, 0.95));
    const std::vector<double> early = between(settled, 0, 0.1 * settled.x.back());
    if (!early.empty()) {
      text += fmt::format(
          "; the median of the first tenth is {:.0f}, of the last {:.0f}", quantile(early, 0.5),
          quantile(between(settled, 0.9 * settled.x.back(), settled.x.back()), 0.5));
    }
    text += ".\n";
  }
  if (tokens_per_step > 0 && !speed.y.empty()) {
    double seconds = 0;
    for (const double rate : speed.y) seconds += tokens_per_step / rate;
    text += fmt::format("- Time: {:.0f} s in {} training steps of {:.0f} tokens.\n", seconds,
                        speed.y.size(), tokens_per_step);
  }
  text += drift_of(metrics, kMemory, "Memory in use");
  text += drift_of(metrics, kPeak, "Peak of memory so far");
  text += drift_of(metrics, kHost, "Memory of the process on the host");
  return text;
}

}  // namespace

std::string make_report_charts(const std::string& title, const MetricsTable& metrics) {
  constexpr int kWidth = 720;
  constexpr int kHeight = 280;
  struct Chart {
    const char* title;
    const char* unit;
    std::vector<const char*> columns;
    bool smooth;
  };
  std::vector<SvgPart> parts;
  for (const Chart& chart : {Chart{"Loss", "nats per token", {kLoss, kHeldOut}, true},
                             Chart{"Speed", "tokens per second", {kSpeed}, true},
                             Chart{"Memory", "GB", {kMemory, kPeak, kHost}, false}}) {
    std::vector<ChartSeries> series;
    for (const char* column : chart.columns) {
      ChartSeries line = series_of(metrics, column, settled_step(metrics));
      if (!line.x.empty()) series.push_back(std::move(line));
    }
    if (series.empty()) continue;
    parts.push_back({line_chart({.title = chart.title,
                                 .y_label = chart.unit,
                                 .width = kWidth,
                                 .height = kHeight,
                                 .smooth = chart.smooth},
                                series),
                     kHeight});
  }
  return svg_page(title, kWidth, parts);
}

std::string make_markdown_report(const MarkdownContent& content, const MetricsTable& metrics) {
  std::string page = fmt::format("# {}\n\n", content.title);
  if (!content.intro.empty()) page += content.intro + "\n\n";
  if (!content.facts.empty()) {
    page += "| | |\n|---|---|\n";
    for (const auto& [name, value] : content.facts)
      page += fmt::format("| {} | {} |\n", name, value);
    page += '\n';
  }
  page += findings(metrics, content.tokens_per_step);
  if (!content.chart_file.empty())
    page += fmt::format("\n![loss, speed and memory by step]({})\n", content.chart_file);
  page += fmt::format("\n{}", course_table(metrics, content.tokens_per_step));
  page += "\nThe training loss is the mean over a hundredth of the run.\n";
  if (!content.config.empty())
    page += fmt::format("\n## Config\n\n```ini\n{}```\n", content.config);
  return page;
}

}  // namespace weft::io
