#include <filesystem>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "weft/io/atomic_file.h"
#include "weft/io/markdown_report.h"
#include "weft/io/metrics.h"
#include "weft/io/run_folder.h"
#include "weft/tensor/check.h"

#include "commands.h"
#include "common/console.h"
#include "common/exit_code.h"
#include "common/options.h"
#include "common/train_config.h"

namespace weft::apps {
namespace {

namespace fs = std::filesystem;

TrainConfig config_of(const io::RunFolder& run, const std::string& text) {
  TrainConfig config;
  Options options("train", "", "");
  config.add_to(options);
  try {
    options.parse_config(text, run.config().string());
  } catch (const UsageError& error) {
    throw IoError(error.what());  // not of the command line
  }
  return config;
}

}  // namespace

int report(const std::vector<std::string>& arguments) {
  std::string run_path;
  std::string out;
  std::string title;
  std::string intro;
  Console::Settings messages;
  Options options("report",
                  "Writes the course of a training run as a page of Markdown, and its charts as an "
                  "SVG file beside it. Reads config.ini, metrics.csv and facts.json of the run.",
                  "weft report --run runs/a --out docs/a.md --title 'A small model'");
  options.add("run", &run_path, "run folder").required().not_in_config();
  options.add("out", &out, "page to write (.md); the charts get its name and .svg")
      .short_name('o')
      .required()
      .not_in_config();
  options.add("title", &title, "heading of the page; default: the name of the run").not_in_config();
  options.add("intro", &intro, "Markdown below the heading").not_in_config();
  messages.add_to(options);
  if (!options.parse(arguments)) return kDone;
  const fs::path page = out;
  if (page.extension() != ".md") throw UsageError(fmt::format("--out: '{}' must end in .md", out));

  const io::RunFolder run(run_path);
  WEFT_CHECK(run.has_run(), IoError, "report: '{}' is no run folder", run_path);
  const io::MetricsTable metrics = io::read_metrics(run.metrics());
  const std::string config_text = run.read_config();
  const TrainConfig config = config_of(run, config_text);
  if (title.empty()) title = "Run " + fs::path(run_path).lexically_normal().filename().string();
  fs::path charts = page;
  charts.replace_extension(".svg");
  io::write_file_atomically(charts, io::make_report_charts(title, metrics));
  io::write_file_atomically(
      page,
      io::make_markdown_report({.title = title,
                                .intro = intro,
                                .facts = run.read_facts(),
                                .chart_file = charts.filename().string(),
                                .tokens_per_step = static_cast<double>(
                                    config.batch_size * config.seq_len * config.grad_accum_steps),
                                .config = config_text},
                               metrics));
  Console(messages).info(fmt::format("written to {} and {}", page.string(), charts.string()));
  return kDone;
}

}  // namespace weft::apps
