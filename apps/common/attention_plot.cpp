#include "common/attention_plot.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include <fmt/format.h>

#include "weft/io/svg_chart.h"

namespace weft::apps {
namespace {

using Line = std::pair<std::string, std::vector<double>>;

/// 8192 -> "8k".
std::string length_label(double length) {
  const auto tokens = static_cast<int64_t>(std::llround(length));
  if (tokens >= 1024 && tokens % 1024 == 0) return fmt::format("{}k", tokens / 1024);
  if (tokens >= 1024) return fmt::format("{:.1f}k", length / 1024);
  return fmt::format("{}", tokens);
}

std::string panel(const std::string& title, const std::string& unit,
                  const std::vector<AttentionBenchPoint>& points,
                  const std::function<double(const AttentionBenchPoint&)>& value) {
  std::vector<double> lengths;
  std::vector<std::string> names;
  for (const AttentionBenchPoint& point : points) {
    const auto length = static_cast<double>(point.seq_len);
    if (std::find(lengths.begin(), lengths.end(), length) == lengths.end())
      lengths.push_back(length);
    if (std::find(names.begin(), names.end(), point.name) == names.end())
      names.push_back(point.name);
  }
  std::sort(lengths.begin(), lengths.end());
  std::vector<Line> lines;
  for (const std::string& name : names) {
    Line line{name, std::vector<double>(lengths.size(), 0)};
    for (const AttentionBenchPoint& point : points) {
      if (point.name != name) continue;
      const auto place = std::find(lengths.begin(), lengths.end(), point.seq_len);
      line.second[static_cast<size_t>(place - lengths.begin())] = value(point);
    }
    lines.push_back(std::move(line));
  }
  io::ChartOptions options{.title = title,
                           .x_label = "tokens",
                           .y_label = unit,
                           .width = 720,
                           .height = 300,
                           .log_x = true,
                           .log_y = true,
                           .points = true};
  for (const double length : lengths) options.x_ticks.push_back({length, length_label(length)});
  for (const Crossover& crossing : crossovers(lengths, lines)) {
    options.marks.push_back(
        {crossing.seq_len, crossing.value,
         fmt::format("{} at {}", crossing.name, length_label(crossing.seq_len))});
  }
  std::vector<io::ChartSeries> series;
  for (Line& line : lines) series.push_back({line.first, lengths, std::move(line.second)});
  return io::line_chart(options, series);
}

}  // namespace

std::vector<Crossover> crossovers(const std::vector<double>& lengths,
                                  const std::vector<Line>& lines) {
  std::vector<Crossover> found;
  for (size_t other = 1; other < lines.size(); ++other) {
    const std::vector<double>& a = lines[0].second;
    const std::vector<double>& b = lines[other].second;
    for (size_t i = 0; i + 1 < lengths.size(); ++i) {
      if (!(a[i] > 0 && a[i + 1] > 0 && b[i] > 0 && b[i + 1] > 0)) continue;
      const double before = std::log(b[i] / a[i]);
      const double after = std::log(b[i + 1] / a[i + 1]);
      if (before * after >= 0) continue;
      const double share = before / (before - after);
      const auto between = [share](double from, double to) {
        return std::exp(std::log(from) + share * std::log(to / from));
      };
      found.push_back(
          {lines[other].first, between(lengths[i], lengths[i + 1]), between(a[i], a[i + 1])});
    }
  }
  return found;
}

std::string plot_attention(const std::vector<AttentionBenchPoint>& points,
                           const std::string& title) {
  using Point = AttentionBenchPoint;
  const auto any = [&](auto&& value) {
    return std::any_of(points.begin(), points.end(), [&](const Point& p) { return value(p) > 0; });
  };
  const auto decode = [](const Point& p) { return 1e3 * p.result.best_decode_s; };
  std::vector<io::SvgPart> parts;
  const auto add = [&](const std::string& name, const std::string& unit,
                       const std::function<double(const Point&)>& value) {
    parts.push_back({panel(name, unit, points, value), 300});
  };
  const bool backward = any([](const Point& p) { return p.result.backward_s; });
  add(backward ? "Forward and backward" : "Forward", "ms",
      [](const Point& p) { return 1e3 * (p.result.best_forward_s + p.result.best_backward_s); });
  if (any(decode)) add("Decoding one token", "ms", decode);
  add("Peak memory of tensors", "MB", [](const Point& p) { return 1e-6 * p.result.peak_bytes; });
  add("Cache of a sequence", "MB", [](const Point& p) {
    return 1e-6 * p.result.cache_bytes_per_token * static_cast<double>(p.seq_len);
  });
  return io::svg_page(title, 720, parts);
}

}  // namespace weft::apps
