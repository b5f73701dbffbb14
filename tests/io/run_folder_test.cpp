#include "weft/io/run_folder.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "weft/io/markdown_report.h"
#include "weft/io/metrics.h"
#include "weft/io/report.h"
#include "weft/io/svg_chart.h"
#include "weft/tensor/error.h"

#include "temporary_folder.h"

namespace weft::io {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

/// Checks that every tag of a page is closed in order, and that its text has no bare '<'.
void expect_well_formed(const std::string& page) {
  std::vector<std::string> open;
  size_t at = 0;
  while ((at = page.find('<', at)) != std::string::npos) {
    const size_t end = page.find('>', at);
    ASSERT_NE(end, std::string::npos);
    const std::string tag = page.substr(at + 1, end - at - 1);
    const std::string name = tag.substr(0, tag.find_first_of(" \n"));
    ASSERT_EQ(tag.find('<'), std::string::npos) << tag;
    if (tag[0] == '/') {
      ASSERT_FALSE(open.empty()) << tag;
      EXPECT_EQ(open.back(), tag.substr(1));
      open.pop_back();
    } else if (tag.back() != '/' && name != "!DOCTYPE" && name != "meta") {
      open.push_back(name);
    }
    at = end;
  }
  EXPECT_TRUE(open.empty());
}

TEST(RunFolder, NamesAndWritesItsFiles) {
  const TemporaryFolder folder;
  const RunFolder run(folder / "runs/x");
  EXPECT_FALSE(run.has_run());
  EXPECT_THROW(run.write_config("a = 1\n"), IoError);
  run.create();
  run.create();
  EXPECT_FALSE(run.has_run());
  run.write_config("a = 1\n");
  EXPECT_TRUE(run.has_run());
  EXPECT_EQ(run.read_config(), "a = 1\n");
  EXPECT_EQ(run.config(), folder / "runs/x/config.ini");
  EXPECT_EQ(run.log(), folder / "runs/x/train.log");
  EXPECT_EQ(run.checkpoints().path_of(1000), folder / "runs/x/checkpoints/step-00001000.h5");
  run.append_sample(10, "one");
  run.append_sample(20, "two\n");
  EXPECT_EQ(read_bytes(run.samples()), "=== step 10\none\n\n=== step 20\ntwo\n\n");
  write_bytes(folder / "file", "");
  EXPECT_THAT(error_of<IoError>([&] { RunFolder(folder / "file/x").create(); }),
              HasSubstr("cannot make folder"));
}

TEST(RunLock, IsHeldByOneProcessAndFreedByItsDeath) {
  const TemporaryFolder folder;
  const RunFolder run(folder.path());
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const RunLock lock(run);
    if (::write(pipe_ends[1], "x", 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(pipe_ends[0], &byte, 1), 1);
  EXPECT_THAT(error_of<IoError>([&] { RunLock{run}; }),
              HasSubstr("is in use by process " + std::to_string(child)));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(pipe_ends[0]);
  ::close(pipe_ends[1]);
  write_bytes(folder / ".config.ini.weft-tmp-1-1", "half");
  { const RunLock lock(run); }
  EXPECT_FALSE(std::filesystem::exists(folder / ".config.ini.weft-tmp-1-1"));
  { const RunLock lock(run); }
  EXPECT_THROW(RunLock{RunFolder(folder / "none")}, IoError);
}

TEST(Report, IsOnePageWithCharts) {
  const TemporaryFolder folder;
  const RunFolder run(folder / "r&d <1>");
  run.create();
  {
    MetricsWriter metrics(run.metrics());
    for (int64_t step = 1; step <= 3000; ++step) {
      const double loss = 5.0 / std::sqrt(static_cast<double>(step)) + 0.1 * std::sin(step * 1.7);
      metrics.write(step, {{"train/loss", loss}, {"train/tokens_per_sec", 4e5}, {"attn/x", loss}});
      if (step % 100 == 0) metrics.write(step, {{"eval/loss", loss}, {"eval/bits_per_byte", 2}});
    }
  }
  run.write_config("title = a < b & c\n");
  run.append_sample(100, "</pre><script>alert(1)</script> \xFF \x01 \xC3\xA9");
  write_report(run, {{"parameters", "1.2 M"}});
  const std::string page = read_bytes(run.report());
  expect_well_formed(page);
  EXPECT_THAT(page, HasSubstr("<title>Run " + (folder.path() / "r&amp;d &lt;1&gt;").string()));
  for (const char* part :
       {"Loss", "Speed", "attn/x", "Held-out bits per byte", "1.2 M", "last step",
        "a &lt; b &amp; c", "\xEF\xBF\xBD \xEF\xBF\xBD \xC3\xA9", "<polyline"})
    EXPECT_THAT(page, HasSubstr(part));
  for (const char* part : {"<script", "Learning rate", "nan", "src=", "href=", "url(", "@import"})
    EXPECT_THAT(page, Not(HasSubstr(part)));
  EXPECT_LT(page.size(), 300'000u);  // lines are thinned
}

TEST(Report, WithoutMetricsOrSamplesIsStillAPage) {
  const TemporaryFolder folder;
  write_report(RunFolder(folder.path()), {});
  expect_well_formed(read_bytes(folder / "report.html"));
}

TEST(RunFolder, KeepsFactsInTheirOrder) {
  const TemporaryFolder folder;
  const RunFolder run(folder.path());
  EXPECT_TRUE(run.read_facts().empty());
  const std::vector<std::pair<std::string, std::string>> facts = {{"z", "1.2 \"M\""}, {"a", "x\n"}};
  run.write_facts(facts);
  EXPECT_EQ(run.read_facts(), facts);
  for (const char* bad : {"", "[]", "{\"a\": 1}", "{\"a\": \"b\""}) {
    write_bytes(run.facts(), bad);
    EXPECT_THAT(error_of<IoError>([&] { run.read_facts(); }), HasSubstr("facts.json"));
  }
}

MetricsTable course(int64_t steps) {
  MetricsTable table{.columns = {"train/loss", "train/tokens_per_sec", "train/memory_gb",
                                 "eval/loss", "eval/bits_per_byte"},
                     .rows = {}};
  for (int64_t step = 1; step <= steps; ++step) {
    // A minimum of the held-out loss at step 1500, and memory that grows at the end.
    const double held_out = 2 + std::abs(static_cast<double>(step) - 1500) / 1000;
    const bool evaluated = step % 100 == 0;
    table.rows.push_back(
        {step,
         {static_cast<double>(step), step == 1 ? 10.0 : 1000.0, step > 1990 ? 2.5 : 1.25,
          evaluated ? std::optional(held_out) : std::nullopt,
          evaluated ? std::optional(held_out / 2) : std::nullopt}});
  }
  return table;
}

TEST(MarkdownReport, SaysWhatTheMetricsDid) {
  const MarkdownContent content{.title = "A run",
                                .intro = "About it.",
                                .facts = {{"parameters", "1.2 M"}},
                                .chart_file = "a.svg",
                                .tokens_per_step = 500,
                                .config = "seed = 1\n"};
  const std::string page = make_markdown_report(content, course(2000));
  for (const char* part :
       {"# A run\n", "About it.", "| parameters | 1.2 M |", "](a.svg)", "```ini\nseed = 1\n```",
        "lowest 2.0000 (1.0000 bits per byte) at step 1500, 2.5000 at the end",
        "1000 tokens per second (median of steps), 1000 and 1000",
        // 1999 steps of half a second, and the first of 50 seconds.
        "Time: 1050 s in 2000 training steps of 500 tokens",
        "Memory in use: 1.250 GB at step 22, 2.500 GB at step 2000; between 1.250 and 2.500 GB",
        // Mean of the losses 1981 to 2000.
        "| 2000 | 1.0 M | 1990.5000 | 2.5000 | 1.2500 | 1000 | 2.500 |\n"})
    EXPECT_THAT(page, HasSubstr(part));
  EXPECT_THAT(page, Not(HasSubstr("host")));
  const auto lines = std::count(page.begin(), page.end(), '\n');
  EXPECT_LT(lines, 50);
  const std::string charts = make_report_charts("A run", course(2000));
  expect_well_formed(charts);
  for (const char* part : {"Loss", "Speed", "Memory", "eval/loss", "<polyline"})
    EXPECT_THAT(charts, HasSubstr(part));
}

TEST(MarkdownReport, TakesShortRuns) {
  for (const int64_t steps : {0, 1, 3}) {
    MetricsTable table = course(steps);
    EXPECT_THAT(make_markdown_report({.title = "x", .facts = {}, .chart_file = ""}, table),
                HasSubstr("# x\n"));
    expect_well_formed(make_report_charts("x", table));
  }
}

TEST(LineChart, TakesAnyNumbers) {
  const double infinite = INFINITY;
  const std::vector<std::vector<double>> lines = {{},
                                                  {1},
                                                  {2, 2, 2},
                                                  {NAN, 1, NAN, 2, 3},
                                                  {infinite, -infinite},
                                                  {1e300, -1e300},
                                                  {1e17, 1e17 + 16},
                                                  {0, 0},
                                                  {-1, 0, 1e-300},
                                                  {5e-324, 1e308}};
  for (const std::vector<double>& y : lines) {
    std::vector<double> x(y.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i * i);
    for (const bool log : {false, true}) {
      const std::string svg = line_chart({.title = "t", .log_x = log, .log_y = log, .smooth = true},
                                         {{"a", x, y}, {"b", y, x}});
      expect_well_formed(svg);
      EXPECT_THAT(svg, Not(HasSubstr("nan")));
      EXPECT_THAT(svg, Not(HasSubstr("inf")));
      EXPECT_LT(svg.size(), 20'000u);
    }
  }
}

TEST(LineChart, ThinningKeepsPeaksAndOrder) {
  std::vector<double> x, y;
  for (int i = 0; i < 200'000; ++i) {
    x.push_back(i);
    y.push_back(i == 123'456 ? 100.0 : 0.0);
  }
  const std::string svg = line_chart({.title = "t"}, {{"a", x, y}});
  EXPECT_LT(svg.size(), 60'000u);
  // The peak reaches the top of the plot: 5 % of the range above it is room.
  double least = 1e9;
  size_t at = svg.find("points=\"") + 8;
  double last_x = 0;
  while (svg[at] != '"') {
    size_t used = 0;
    const double px = std::stod(svg.substr(at, 20), &used);
    at += used + 1;
    least = std::min(least, std::stod(svg.substr(at, 20), &used));
    at += used;
    if (svg[at] == ' ') ++at;
    EXPECT_GE(px, last_x);
    last_x = px;
  }
  EXPECT_LT(least, 32 + 0.06 * (320 - 44 - 32));
}

}  // namespace
}  // namespace weft::io
