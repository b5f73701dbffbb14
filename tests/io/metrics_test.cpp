#include "weft/io/metrics.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "file_size_limit.h"
#include "temporary_folder.h"

namespace weft::io {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Metrics, RowsAppearAsTheyAreWritten) {
  const TemporaryFolder folder;
  const auto path = folder / "metrics.csv";
  MetricsWriter writer(path);
  EXPECT_EQ(read_bytes(path), "step\n");
  writer.write(1, {{"train/loss", 5.5}, {"train/lr", 1e-3}});
  EXPECT_EQ(read_bytes(path), "step,train/loss,train/lr\n1,5.5,0.001\n");
  writer.write(2, {{"train/lr", 0.1}, {"train/loss", 4}});
  writer.write(2, {{"eval/loss", 4.25}});  // a new column, and the others were not measured
  writer.write(3, {});
  EXPECT_EQ(read_bytes(path),
            "step,train/loss,train/lr,eval/loss\n1,5.5,0.001,\n2,4,0.1,\n2,,,4.25\n3,,,\n");
  const MetricsTable table = read_metrics(path);
  EXPECT_THAT(table.columns, ElementsAre("train/loss", "train/lr", "eval/loss"));
  EXPECT_EQ(table.column("eval/loss"), 2);
  EXPECT_EQ(table.column("none"), -1);
  ASSERT_EQ(table.rows.size(), 4u);
  EXPECT_EQ(table.rows[2].step, 2);
  EXPECT_FALSE(table.rows[2].values[0].has_value());
  EXPECT_EQ(table.rows[2].values[2], 4.25);
}

TEST(Metrics, NumbersReadBackExactly) {
  const TemporaryFolder folder;
  const auto path = folder / "metrics.csv";
  const std::vector<double> values = {
      0.1, 1.0 / 3.0, 1e300, 5e-324, -0.0, 1e16, std::numeric_limits<double>::infinity()};
  {
    MetricsWriter writer(path);
    for (size_t i = 0; i < values.size(); ++i)
      writer.write(static_cast<int64_t>(i), {{"x", values[i]}});
    writer.write(100, {{"x", std::nan("")}});
  }
  const MetricsTable table = read_metrics(path);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(table.rows[i].values[0], values[i]);
  EXPECT_TRUE(std::isnan(*table.rows.back().values[0]));
}

TEST(Metrics, ResumeDropsTheRowsAfterItsStep) {
  const TemporaryFolder folder;
  const auto path = folder / "metrics.csv";
  {
    MetricsWriter writer(path);
    for (int64_t step = 1; step <= 10; ++step)
      writer.write(step, {{"a", static_cast<double>(step)}});
  }
  write_bytes(path, read_bytes(path) + "11,1");  // killed in the middle of a row
  {
    MetricsWriter writer(path, 6);
    writer.write(7, {{"b", 70}, {"a", 77}});
  }
  const MetricsTable table = read_metrics(path);
  EXPECT_THAT(table.columns, ElementsAre("a", "b"));
  ASSERT_EQ(table.rows.size(), 7u);
  EXPECT_EQ(table.rows[5].values[0], 6);
  EXPECT_EQ(table.rows[6].values[0], 77);
  { MetricsWriter writer(path); }
  EXPECT_TRUE(read_metrics(path).rows.empty());
  { MetricsWriter writer(folder / "new.csv", 5); }  // resuming without a file begins one
  EXPECT_EQ(read_bytes(folder / "new.csv"), "step\n");
}

TEST(Metrics, BadNamesFilesAndDisksAreErrors) {
  const TemporaryFolder folder;
  const auto path = folder / "metrics.csv";
  MetricsWriter writer(path);
  for (const char* name : {"", "step", "a,b", "a\"b", "a\nb"})
    EXPECT_THROW(writer.write(1, {{name, 1}}), ConfigError) << name;
  writer.write(1, {{"a", 1}});
  {
    const FileSizeLimit full(std::filesystem::file_size(path) + 2);
    EXPECT_THAT(error_of<IoError>([&] {
                  writer.write(2, {{"a", 123456}});
                }),
                HasSubstr(path.string()));
  }
  for (const auto& [text, reason] : std::vector<std::pair<std::string, std::string>>{
           {"x,y\n", "line 1: the first column must be 'step'"},
           {"step,a\n1,2\n2\n", "line 3: 1 fields, expected 2"},
           {"step,a\n1,x\n", "line 2: a field is not a number"},
           {"step,a\n1.5,2\n", "line 2: a field is not a number"}}) {
    write_bytes(path, text);
    EXPECT_THAT(error_of<IoError>([&] { read_metrics(path); }), HasSubstr(reason));
  }
  EXPECT_THROW(read_metrics(folder / "none"), IoError);
  EXPECT_THROW(MetricsWriter(folder / "no/such/m.csv"), IoError);
}

}  // namespace
}  // namespace weft::io
