#pragma once

#include <string>
#include <vector>

namespace weft::io {

/// A line of a chart. Points that are not finite are left out and break the line.
struct ChartSeries {
  std::string name;
  std::vector<double> x;
  std::vector<double> y;
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
};

/// A line chart as an SVG element, complete in itself. On a logarithmic axis values that are not
/// positive are left out. Long lines are thinned to about two points a pixel, keeping peaks.
std::string line_chart(const ChartOptions& options, const std::vector<ChartSeries>& series);

/// Text with the characters that mean something to HTML and XML replaced.
std::string escape_markup(std::string_view text);

}  // namespace weft::io
