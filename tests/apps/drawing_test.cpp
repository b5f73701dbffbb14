#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "common/attention_mask.h"
#include "common/attention_plot.h"
#include "weft_process.h"

namespace weft::apps {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr int64_t kTokens = 40;

AttentionMask mask_of(const std::string& mechanism, const std::vector<std::string>& options = {},
                      int64_t n_kv_heads = 1) {
  const auto masks = find_masks(mechanism, {.d_model = 16, .n_heads = 2, .n_kv_heads = n_kv_heads},
                                options, kTokens, 3);
  EXPECT_EQ(masks.size(), 1u);
  return masks.at(0);
}

TEST(AttentionMask, IsWhatTheDefinitionSays) {
  const AttentionMask full = mask_of("full");
  const AttentionMask windowed = mask_of("swa", {"window=7"});
  ASSERT_EQ(full.branches, std::vector<std::string>({""}));
  for (int64_t query = 0; query < kTokens; ++query) {
    for (int64_t key = 0; key < kTokens; ++key) {
      EXPECT_EQ(full.read(0, query, key), key <= query) << query << " " << key;
      EXPECT_EQ(windowed.read(0, query, key), key <= query && key > query - 7)
          << query << " " << key;
    }
  }
}

TEST(AttentionMask, TellsBranchesApart) {
  constexpr int64_t kBlock = 8;
  const AttentionMask mask = mask_of("nsa", {"block=8", "stride=8", "select-block=8",
                                             "select-count=3", "initial=1", "local=1", "window=5"});
  ASSERT_EQ(mask.branches, std::vector<std::string>({"cmp", "slc", "win"}));
  int64_t chosen_freely = 0;
  for (int64_t query = 0; query < kTokens; ++query) {
    for (int64_t key = 0; key < kTokens; ++key) {
      // The own token asks, and so counts in all branches.
      const bool complete = (key / kBlock + 1) * kBlock <= query + 1;
      EXPECT_EQ(mask.read(0, query, key), complete || key == query) << query << " " << key;
      EXPECT_EQ(mask.read(2, query, key), key <= query && key > query - 5);
      if (key > query) {
        EXPECT_FALSE(mask.read(1, query, key));
      } else if (key < kBlock || key / kBlock == query / kBlock) {
        EXPECT_TRUE(mask.read(1, query, key)) << "forced: " << query << " " << key;
      } else {
        EXPECT_EQ(mask.read(1, query, key), mask.read(1, query, key / kBlock * kBlock));
        chosen_freely += mask.read(1, query, key);
      }
    }
  }
  // One block besides the forced ones, from the third block on.
  EXPECT_EQ(chosen_freely, (kTokens - 2 * kBlock) * kBlock);
}

TEST(AttentionMask, LeavesTheGatesAsTheyWere) {
  Generator generator(1);
  const auto factory = attention::make_mixer_factory(
      {.shape = {.d_model = 16, .n_heads = 2}, .schedule = "nsa", .options = {}}, generator);
  const auto mixer = factory(0);
  const auto before = mixer->parameter("gate_proj.bias").data().to_vector<float>();
  find_mask(*mixer, "nsa", {"cmp", "slc", "win"}, 16, 8, 1);
  EXPECT_EQ(mixer->parameter("gate_proj.bias").data().to_vector<float>(), before);
  EXPECT_FALSE(mixer->parameter("q_proj.weight").grad().defined());
}

TEST(AttentionMask, CommandWritesADrawing) {
  const TemporaryFolder folder;
  const std::string file = (folder / "mask.svg").string();
  const Outcome drawn = weft({"attention", "full,swa", "--plot", file, "--tokens", "20",
                              "--attention-opt", "swa.window=3"});
  ASSERT_EQ(drawn.code, 0) << drawn.err;
  EXPECT_EQ(drawn.out, "");
  const std::string svg = read_bytes(file);
  EXPECT_THAT(svg, testing::StartsWith("<svg xmlns="));
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
  EXPECT_THAT(svg, HasSubstr(">full</text>"));
  EXPECT_THAT(svg, HasSubstr(">swa</text>"));
  EXPECT_THAT(svg, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(svg, Not(HasSubstr("<script")));
  // 19 pixels a token: the window of the last query starts at key 17.
  EXPECT_THAT(svg, HasSubstr("M323 361h57v19h-57z"));

  for (const auto& [arguments, says] : std::vector<std::pair<Arguments, const char*>>{
           {{"attention", "--plot", file}, "--plot needs the name"},
           {{"attention", "ful", "--plot", file}, "did you mean \"full\""},
           {{"attention", "swa", "--plot", file, "--attention-opt", "window=0"}, "window"},
           {{"attention", "full", "--plot", file, "--tokens", "513"}, "--tokens: 513"}}) {
    const Outcome outcome = weft(arguments);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_TRUE(is_one_error_line(outcome.err)) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(says));
  }
  const Outcome nowhere =
      weft({"attention", "full", "--plot", (folder / "none" / "a.svg").string()});
  EXPECT_EQ(nowhere.code, 1);
  EXPECT_TRUE(is_one_error_line(nowhere.err)) << nowhere.err;
}

TEST(Crossovers, LieWhereTheLinesCross) {
  const std::vector<double> lengths = {1, 2, 4, 8};
  // t^2 against 3 t and against a line above it.
  const auto found = crossovers(
      lengths, {{"a", {1, 4, 16, 64}}, {"b", {3, 6, 12, 24}}, {"c", {100, 200, 400, 800}}});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].name, "b");
  EXPECT_NEAR(found[0].seq_len, 3, 1e-9);
  EXPECT_NEAR(found[0].value, 9, 1e-9);
  EXPECT_TRUE(crossovers(lengths, {{"a", {1, 4, 16, 64}}, {"b", {3, 6, 0, 0}}}).empty());
  EXPECT_TRUE(crossovers({}, {}).empty());
}

TEST(BenchAttentionPlot, MarksCrossovers) {
  std::vector<AttentionBenchPoint> points;
  for (const int64_t length : {1024, 2048, 4096}) {
    const auto t = static_cast<double>(length);
    AttentionBenchPoint full{.name = "full", .seq_len = length};
    full.result.best_forward_s = t * t;
    full.result.peak_bytes = t;
    full.result.cache_bytes_per_token = 8;
    AttentionBenchPoint sparse = full;
    sparse.name = "a<b";
    sparse.result.best_forward_s = 3072 * t;
    points.push_back(full);
    points.push_back(sparse);
  }
  const std::string svg = plot_attention(points, "T & t");
  EXPECT_THAT(svg, HasSubstr(">a&lt;b at 3k</text>"));
  EXPECT_THAT(svg, HasSubstr("<title>T &amp; t</title>"));
  EXPECT_THAT(svg, HasSubstr(">2k</text>"));
  EXPECT_THAT(svg, HasSubstr("Cache of a sequence"));
  EXPECT_THAT(svg, Not(HasSubstr("Decoding"))) << "nothing was decoded";
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(BenchAttentionPlot, CommandWritesCharts) {
  const TemporaryFolder folder;
  const std::string file = (folder / "bench.svg").string();
  const Outcome outcome =
      weft({"bench", "attention", "--attention", "full,swa", "--seq-len", "32,64", "--d-model",
            "32", "--n-heads", "4", "--repeats", "1", "--plot", file, "-q"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(read_bytes(file), HasSubstr("Forward and backward"));
  const Outcome nowhere =
      weft({"bench", "attention", "--seq-len", "16", "--plot", (folder / "no" / "a.svg").string()});
  EXPECT_EQ(nowhere.code, 1);
}

}  // namespace
}  // namespace weft::apps
