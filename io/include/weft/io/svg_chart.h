#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace weft::io {

/// A line of a chart. Points that are not finite are left out and break the line.
struct ChartSeries {
  std::string name;
  std::vector<double> x;
  std::vector<double> y;
};

/// A labelled place on an axis.
struct ChartTick {
  double value;
  std::string label;
};

/// A point that is pointed out, with a text beside it.
struct ChartMark {
  double x;
  double y;
  std::string label;
};

struct ChartOptions {
  std::string title = {};
  std::string x_label = "step";
  std::string y_label = {};
  int width = 640;   ///< pixels
  int height = 320;  ///< pixels
  bool log_x = false;
  bool log_y = false;
  bool smooth = false;  ///< a running mean over noisy lines, which then are drawn faintly
  bool points = false;  ///< a dot at every point
  std::vector<ChartTick> x_ticks = {};  ///< in the place of round numbers
  std::vector<ChartMark> marks = {};
};

/// A line chart as an SVG element, complete in itself. On a logarithmic axis values that are not
/// positive are left out. Long lines are thinned to about two points a pixel, keeping peaks.
std::string line_chart(const ChartOptions& options, const std::vector<ChartSeries>& series);

/// Colour number `i` of charts, as in "#0072b2": distinct for most colour-blind readers.
std::string_view chart_colour(size_t i);

/// A picture of its own, for files: `parts` (charts, or other SVG elements as large as `width` and
/// their `heights`) below each other on a background that, like the text, follows the reader's
/// light or dark scheme.
struct SvgPart {
  std::string svg;
  int height;
};
std::string svg_page(const std::string& title, int width, const std::vector<SvgPart>& parts);

/// Text with the characters that mean something to HTML and XML replaced.
std::string escape_markup(std::string_view text);

}  // namespace weft::io
