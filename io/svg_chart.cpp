#include "weft/io/svg_chart.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

#include <fmt/format.h>

namespace weft::io {
namespace {

// Distinct also for most colour-blind readers (Okabe and Ito's palette, without yellow and black).
constexpr std::array<std::string_view, 6> kColours = {"#0072b2", "#d55e00", "#009e73",
                                                      "#cc79a7", "#56b4e9", "#e69f00"};

constexpr int kLeft = 64;
constexpr int kRight = 16;
constexpr int kTop = 32;
constexpr int kBottom = 44;

struct Point {
  double x;
  double y;
};
/// Pieces of a line between its gaps.
using Pieces = std::vector<std::vector<Point>>;

/// One axis: from values to pixels, and where its ticks are.
class Axis {
 public:
  Axis(bool log, double first_pixel, double last_pixel)
      : log_(log), first_pixel_(first_pixel), last_pixel_(last_pixel) {}

  bool takes(double value) const {
    constexpr double kLargest = 1e300;  // ranges of larger ones overflow
    return std::abs(value) <= kLargest && (!log_ || value > 0);
  }
  void include(double value) {
    least_ = std::min(least_, scale(value));
    most_ = std::max(most_, scale(value));
  }
  void finish(double margin) {
    if (least_ > most_) least_ = 0, most_ = 1;
    const double range = most_ - least_;
    const double room = range > 0 ? range * margin : std::max(std::abs(most_) * 0.1, 0.5);
    least_ -= room;
    most_ += room;
  }
  double pixel(double value) const { return pixel_of_scaled(scale(value)); }

  struct Tick {
    double pixel;
    std::string label;
  };
  std::vector<Tick> ticks(int wanted) const {
    std::vector<Tick> ticks;
    const auto add = [&](double scaled, double value) {
      if (scaled >= least_ && scaled <= most_)
        ticks.push_back({pixel_of_scaled(scaled), label(value)});
    };
    if (log_) {
      // Powers of ten, with its double and fivefold where there is room.
      const bool dense = most_ - least_ <= wanted;
      const double stride = std::max(1.0, std::ceil((most_ - least_) / wanted));
      for (double power = std::floor(least_); power <= most_; power += stride) {
        for (const double factor : {1.0, 2.0, 5.0}) {
          const double value = factor * std::pow(10.0, power);
          if (factor == 1.0 || dense) add(std::log10(value), value);
        }
      }
      return ticks;
    }
    const double step = nice_step((most_ - least_) / wanted);
    const double first = std::ceil(least_ / step) * step;
    for (int i = 0; i <= 2 * wanted; ++i) {
      const double at = first + i * step;
      const double clean = std::abs(at) < step * 1e-6 ? 0.0 : at;
      add(clean, clean);
    }
    return ticks;
  }

 private:
  double scale(double value) const { return log_ ? std::log10(value) : value; }
  double pixel_of_scaled(double scaled) const {
    return first_pixel_ + (scaled - least_) / (most_ - least_) * (last_pixel_ - first_pixel_);
  }
  /// 1, 2 or 5 times a power of ten.
  static double nice_step(double rough) {
    const double power = std::pow(10.0, std::floor(std::log10(rough)));
    for (const double factor : {1.0, 2.0, 5.0}) {
      if (factor * power >= rough) return factor * power;
    }
    return 10 * power;
  }
  static std::string label(double value) {
    const double size = std::abs(value);
    if (size >= 1e9) return fmt::format("{:.4g}G", value / 1e9);
    if (size >= 1e6) return fmt::format("{:.4g}M", value / 1e6);
    if (size >= 1e4) return fmt::format("{:.4g}k", value / 1e3);
    return fmt::format("{:.4g}", value);
  }

  bool log_;
  double first_pixel_;
  double last_pixel_;
  double least_ = std::numeric_limits<double>::infinity();
  double most_ = -std::numeric_limits<double>::infinity();
};

/// The points of a line in pixels.
Pieces to_pixels(const ChartSeries& series, const Axis& x, const Axis& y) {
  Pieces pieces(1);
  for (size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
    if (!x.takes(series.x[i]) || !y.takes(series.y[i])) {
      if (!pieces.back().empty()) pieces.emplace_back();
      continue;
    }
    pieces.back().push_back({x.pixel(series.x[i]), y.pixel(series.y[i])});
  }
  return pieces;
}

/// Keeps the lowest and highest point of every pixel column.
std::vector<Point> thin_out(const std::vector<Point>& points) {
  std::vector<Point> kept;
  for (size_t start = 0; start < points.size();) {
    size_t end = start;
    size_t low = start;
    size_t high = start;
    const double column = std::floor(points[start].x);
    for (; end < points.size() && std::floor(points[end].x) == column; ++end) {
      if (points[end].y > points[low].y) low = end;
      if (points[end].y < points[high].y) high = end;
    }
    kept.push_back(points[std::min(low, high)]);
    if (low != high) kept.push_back(points[std::max(low, high)]);
    start = end;
  }
  return kept;
}

/// A centred mean over about a fiftieth of the line.
std::vector<Point> running_mean(const std::vector<Point>& points) {
  const size_t half = std::max<size_t>(1, points.size() / 100);
  std::vector<Point> smooth;
  double sum = 0;
  size_t first = 0;
  size_t last = 0;
  for (size_t i = 0; i < points.size(); ++i) {
    for (; last < std::min(points.size(), i + half + 1); ++last) sum += points[last].y;
    for (; first + half < i; ++first) sum -= points[first].y;
    smooth.push_back({points[i].x, sum / static_cast<double>(last - first)});
  }
  return smooth;
}

void draw(std::string& svg, const std::vector<Point>& line, std::string_view colour, double width,
          double opacity) {
  if (line.empty()) return;
  if (line.size() == 1) {
    svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", line[0].x,
                       line[0].y, colour);
    return;
  }
  svg += fmt::format(
      "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" opacity=\"{}\" points=\"", colour,
      width, opacity);
  for (const Point& point : thin_out(line)) svg += fmt::format("{:.1f},{:.1f} ", point.x, point.y);
  svg.back() = '"';
  svg += "/>\n";
}

std::vector<Axis::Tick> x_ticks(const ChartOptions& options, const Axis& x) {
  if (options.x_ticks.empty()) return x.ticks(6);
  std::vector<Axis::Tick> ticks;
  for (const ChartTick& tick : options.x_ticks) {
    if (x.takes(tick.value)) ticks.push_back({x.pixel(tick.value), escape_markup(tick.label)});
  }
  return ticks;
}

void draw_axes(std::string& svg, const ChartOptions& options, const Axis& x, const Axis& y) {
  const int bottom = options.height - kBottom;
  const int right = options.width - kRight;
  for (const Axis::Tick& tick : y.ticks(5)) {
    svg += fmt::format(
        "<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"currentColor\" "
        "opacity=\"0.15\"/>\n<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
        kLeft, right, tick.pixel, tick.pixel, kLeft - 6, tick.pixel + 4, tick.label);
  }
  for (const Axis::Tick& tick : x_ticks(options, x)) {
    svg += fmt::format(
        "<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{}\" y2=\"{}\" stroke=\"currentColor\" "
        "opacity=\"0.4\"/>\n<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
        tick.pixel, tick.pixel, bottom, bottom + 4, tick.pixel, bottom + 18, tick.label);
  }
  svg += fmt::format(
      "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2}\" y2=\"{2}\" stroke=\"currentColor\" "
      "opacity=\"0.4\"/>\n<text x=\"{3}\" y=\"{4}\" text-anchor=\"middle\">{5}</text>\n",
      kLeft, right, bottom, (kLeft + right) / 2, options.height - 8,
      escape_markup(options.x_label));
  svg += fmt::format("<text x=\"{}\" y=\"20\" font-weight=\"bold\" font-size=\"14\">{}</text>\n",
                     kLeft, escape_markup(options.title));
  if (!options.y_label.empty()) {
    svg += fmt::format(
        "<text x=\"14\" y=\"{0}\" transform=\"rotate(-90 14 {0})\" "
        "text-anchor=\"middle\">{1}</text>\n",
        (kTop + bottom) / 2, escape_markup(options.y_label));
  }
}

void draw_marks(std::string& svg, const ChartOptions& options, const Axis& x, const Axis& y) {
  for (const ChartMark& mark : options.marks) {
    if (!x.takes(mark.x) || !y.takes(mark.y)) continue;
    const double at = x.pixel(mark.x);
    const bool to_the_left = at > options.width / 2;
    svg += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\" fill=\"none\" stroke=\"currentColor\"/>\n"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
        at, y.pixel(mark.y), to_the_left ? at - 9 : at + 9, y.pixel(mark.y) + 4,
        to_the_left ? "end" : "start", escape_markup(mark.label));
  }
}

/// Names of the lines, right-aligned in the row of the title.
void draw_legend(std::string& svg, const ChartOptions& options,
                 const std::vector<ChartSeries>& series) {
  constexpr double kLetter = 6.6;  // about the width of one at 12 pixels
  double x = options.width - kRight;
  for (size_t i = series.size(); i-- > 0;) {
    x -= kLetter * static_cast<double>(series[i].name.size());
    svg += fmt::format("<text x=\"{:.0f}\" y=\"20\">{}</text>\n", x, escape_markup(series[i].name));
    x -= 20;
    svg += fmt::format("<rect x=\"{:.0f}\" y=\"14\" width=\"14\" height=\"4\" fill=\"{}\"/>\n", x,
                       chart_colour(i));
    x -= 12;
  }
}

}  // namespace

std::string escape_markup(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string line_chart(const ChartOptions& options, const std::vector<ChartSeries>& series) {
  Axis x(options.log_x, kLeft, options.width - kRight);
  Axis y(options.log_y, options.height - kBottom, kTop);
  for (const ChartSeries& line : series) {
    for (size_t i = 0; i < std::min(line.x.size(), line.y.size()); ++i) {
      if (!x.takes(line.x[i]) || !y.takes(line.y[i])) continue;
      x.include(line.x[i]);
      y.include(line.y[i]);
    }
  }
  x.finish(0);
  y.finish(0.05);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"currentColor\" "
      "role=\"img\" aria-label=\"{2}\">\n",
      options.width, options.height, escape_markup(options.title));
  draw_axes(svg, options, x, y);
  if (series.size() > 1) draw_legend(svg, options, series);
  constexpr size_t kManyPoints = 100;
  for (size_t i = 0; i < series.size(); ++i) {
    const std::string_view colour = chart_colour(i);
    for (const std::vector<Point>& piece : to_pixels(series[i], x, y)) {
      const bool smooth = options.smooth && piece.size() > kManyPoints;
      draw(svg, piece, colour, smooth ? 1 : 2, smooth ? 0.3 : 1);
      if (smooth) draw(svg, running_mean(piece), colour, 2, 1);
      if (!options.points) continue;
      for (const Point& point : piece) draw(svg, {point}, colour, 2, 1);
    }
  }
  draw_marks(svg, options, x, y);
  return svg + "</svg>\n";
}

std::string_view chart_colour(size_t i) {
  return kColours[i % kColours.size()];
}

std::string svg_page(const std::string& title, int width, const std::vector<SvgPart>& parts) {
  int height = 0;
  for (const SvgPart& part : parts) height += part.height;
  std::string page = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\" role=\"img\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<title>{2}</title>\n"
      "<style>.page {{ color: #24292f; fill: currentColor; }} .paper {{ fill: #ffffff; }} "
      "@media (prefers-color-scheme: dark) {{ .page {{ color: #e6edf3; }} "
      ".paper {{ fill: #0d1117; }} }}</style>\n"
      "<rect class=\"paper\" width=\"{0}\" height=\"{1}\"/>\n<g class=\"page\">\n",
      width, height, escape_markup(title));
  int top = 0;
  for (const SvgPart& part : parts) {
    page += fmt::format("<g transform=\"translate(0 {})\">\n{}</g>\n", top, part.svg);
    top += part.height;
  }
  return page + "</g>\n</svg>\n";
}

}  // namespace weft::io
