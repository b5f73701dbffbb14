#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/attention/registry.h"
#include "weft/tensor/error.h"

#include "common/attention_bench.h"
#include "common/rows.h"
#include "weft_process.h"

namespace weft::apps {
namespace {

using testing::HasSubstr;

const Arguments kSmall = {"bench",     "attention", "--d-model", "32",
                          "--n-heads", "4",         "--repeats", "2"};

Arguments small(const Arguments& more) {
  Arguments arguments = kSmall;
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(BenchAttention, PrintsARowForEachMechanismAndLength) {
  std::vector<std::string> names;
  for (const attention::MechanismInfo& mechanism : attention::mechanisms())
    names.push_back(mechanism.name);
  const Outcome outcome =
      weft(small({"--attention", fmt::format("{}", fmt::join(names, ",")), "--seq-len", "64,128",
                  "--device", "cpu", "--format", "json"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto rows = parse_json(outcome);
  ASSERT_TRUE(rows.is_array());
  ASSERT_EQ(rows.size(), 2 * names.size());
  std::set<std::pair<std::string, int>> seen;
  for (const auto& row : rows) {
    seen.emplace(row.at("attention"), row.at("seq_len"));
    for (const char* key : {"fwd_ms", "bwd_ms", "decode_ms", "flops_fwd", "peak_bytes",
                            "cache_bytes_per_token", "params", "matmul_gflops_per_s"}) {
      EXPECT_GT(row.at(key).get<double>(), 0) << key;
    }
    EXPECT_NEAR(row.at("flops_fwd").get<double>(),
                row.at("flops_core").get<double>() + row.at("flops_projections").get<double>(),
                1e-3);
    EXPECT_GT(row.at("decode_ms_min").get<double>(), 0);
    EXPECT_FALSE(row.at("graph").get<bool>());
    EXPECT_GT(row.at("time_to_first").get<double>(), 0);
    EXPECT_LE(row.at("fwd_ms_min").get<double>(), row.at("fwd_ms").get<double>());
    EXPECT_LE(row.at("kept_bytes").get<double>(), row.at("peak_bytes").get<double>());
  }
  EXPECT_EQ(seen.size(), rows.size());
}

TEST(BenchAttention, FullAttentionHasItsFormulas) {
  const auto rows =
      parse_json(weft(small({"--attention", "full,F", "--n-kv-heads", "2", "--seq-len", "96",
                             "--batch-size", "3", "--format", "json"})));
  ASSERT_EQ(rows.size(), 2u);
  for (const auto& row : rows) {
    // 4 heads of 8, 2 of them with keys and values: 96 * 97 / 2 pairs, 3 sequences.
    EXPECT_EQ(row.at("flops_core").get<double>(), 3.0 * 2 * 4 * (8 + 8) * (96 * 97 / 2));
    EXPECT_EQ(row.at("flops_projections").get<double>(), 3.0 * 2 * 32 * (32 + 32 + 32) * 96);
    EXPECT_EQ(row.at("cache_bytes_per_token").get<double>(), 2 * 2 * 8 * 4);
    EXPECT_EQ(row.at("params").get<double>(), 32 * 96);
    EXPECT_EQ(row.at("layers").get<int>(), 1);
  }
  EXPECT_EQ(rows[0].at("time_to_first").get<double>(), 1);
}

TEST(BenchAttention, LeavesOutWhatIsSwitchedOff) {
  const auto rows = parse_json(weft(small(
      {"--seq-len", "32", "--no-decode", "--no-backward", "--dtype", "bf16", "--format", "json"})));
  EXPECT_TRUE(rows.at(0).at("bwd_ms").is_null());
  EXPECT_TRUE(rows.at(0).at("decode_ms").is_null());
  EXPECT_EQ(rows.at(0).at("cache_bytes_per_token").get<double>(), 2 * 2 * 8 * 2);

  const auto decoding =
      parse_json(weft(small({"--attention", "full,asa", "--seq-len", "32", "--no-forward",
                             "--batch-size", "2", "--format", "json"})));
  for (const auto& row : decoding) {
    for (const char* key : {"fwd_ms", "bwd_ms", "peak_bytes", "kept_bytes", "fwd_gflops_per_s",
                            "time_to_first", "matmul_gflops_per_s"})
      EXPECT_TRUE(row.at(key).is_null()) << key;
    EXPECT_GT(row.at("decode_ms").get<double>(), 0);
    EXPECT_GT(row.at("decode_time_to_first").get<double>(), 0);
  }
}

TEST(BenchAttention, PrintsTextAndCsv) {
  const Outcome csv = weft(small({"--seq-len", "16,32", "--format", "csv"}));
  EXPECT_EQ(std::count(csv.out.begin(), csv.out.end(), '\n'), 3);
  EXPECT_THAT(csv.out, testing::StartsWith("attention,seq_len,fwd_ms,bwd_ms,decode_ms,flops_fwd,"
                                           "peak_bytes,cache_bytes_per_token,"));
  const Outcome text = weft(small({"--seq-len", "16", "--no-decode"}));
  EXPECT_THAT(text.out, HasSubstr("\nfull           16"));
  EXPECT_THAT(text.out, HasSubstr("GFLOP/s"));
  const Outcome decoding = weft(small({"--seq-len", "16", "--no-forward"}));
  EXPECT_THAT(decoding.out, HasSubstr("\nfull           16"));
  EXPECT_THAT(decoding.out, HasSubstr(" threads.\n"));
}

TEST(BenchAttention, RefusesBadInput) {
  struct Mistake {
    Arguments flags;
    const char* says;
  };
  for (const Mistake& mistake : std::vector<Mistake>{
           {{"--attention", "ful"}, "did you mean \"full\""},
           {{"--attention", ""}, "--attention names no mechanism"},
           {{"--attention", "FZ"}, "unknown letter Z"},
           {{"--attention-opt", "zork=1"}, "none of full has the option 'zork=1'"},
           {{"--attention-opt", "head-dim=x"}, "head-dim must be an integer"},
           {{"--seq-len", "0"}, "--seq-len: 0 is out of range"},
           {{"--seq-len", "4x"}, "--seq-len: '4x' is not a whole number"},
           {{"--seq-len", ""}, "--seq-len names no length"},
           {{"--no-forward", "--no-decode"}, "--no-forward and --no-decode leave nothing to time"},
           {{"--no-forward", "--plot", "x.svg"}, "--plot draws passes"},
           {{"--n-kv-heads", "3"}, "n_heads (4) must be a multiple of n_kv_heads (3)"},
           {{"--dtype", "f16"}, "allowed are f32, bf16"},
           {{"--batch-size", "0"}, "--batch-size: 0"},
           {{"--device", "gpu"}, "gpu"},
           {{"--format", "xml"}, "xml"}}) {
    const Outcome outcome = weft(small(mistake.flags));
    EXPECT_EQ(outcome.code, 2) << mistake.says;
    EXPECT_TRUE(is_one_error_line(outcome.err)) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(mistake.says));
    EXPECT_EQ(outcome.out, "");
  }
  EXPECT_EQ(weft({"bench"}).code, 2);
  EXPECT_THAT(weft({"bench", "stp"}).err,
              HasSubstr("'stp' is unknown; known are step, decode, attention"));
}

Arguments small_decode(const Arguments& more) {
  Arguments arguments = {"bench",        "decode", "--d-model",    "32", "--n-layers", "2",
                         "--n-heads",    "4",      "--d-ff",       "48", "--context",  "20",
                         "--new-tokens", "6",      "--vocab-size", "50", "--device",   "cpu"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(BenchStep, NamesYardsticksThatExist) {
  const Outcome outcome = weft({"bench", "step", "--peer"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const char* path :
       {"scripts/bench-gpu.sh", "scripts/bench.sh", "benchmarks/peers/torch_gpu_step.py",
        "benchmarks/README.md", "docs/performance.md"}) {
    EXPECT_THAT(outcome.out, HasSubstr(path));
    EXPECT_TRUE(std::filesystem::exists(std::filesystem::path(WEFT_SOURCE_DIR) / path)) << path;
  }
}

TEST(BenchDecode, TellsTheSpeedAndItsBound) {
  const auto row = parse_json(weft(small_decode(
      {"--n-kv-heads", "2", "--batch-size", "3", "--warmup", "1", "--format", "json"})));
  for (const char* key : {"tokens_per_s", "token_ms", "copy_bytes_per_s", "bandwidth_share"})
    EXPECT_GT(row.at(key).get<double>(), 0) << key;
  // Two layers of norms, attention with two key heads of 8 and an MLP; norm and head; no embedding.
  const double parameters = 2 * (2 * 32 + 32 * 32 * 3 + 3 * 32 * 48) + 32 + 32 * 50;
  EXPECT_EQ(row.at("parameter_bytes").get<double>(), 4 * parameters);
  // The fourth of the six steps that follow one for warming up reads 20 + 1 + 3 tokens.
  EXPECT_EQ(row.at("cache_bytes").get<double>(), 3.0 * 2 * 24 * 2 * 2 * 8 * 4);
  EXPECT_EQ(row.at("bytes_per_step").get<double>(),
            row.at("parameter_bytes").get<double>() + row.at("cache_bytes").get<double>());
  EXPECT_NEAR(row.at("bandwidth_share").get<double>(),
              row.at("bytes_per_step").get<double>() / (row.at("copy_bytes_per_s").get<double>() *
                                                        1e-3 * row.at("token_ms").get<double>()),
              1e-6);
  EXPECT_NEAR(row.at("tokens_per_s").get<double>() * row.at("token_ms").get<double>(), 3e3, 1e-3);
  EXPECT_EQ(row.at("graph_nodes").get<int>(), 0);
  EXPECT_FALSE(row.at("one_kernel").get<bool>());
}

TEST(BenchDecode, TakesEveryMechanismAndFormat) {
  const auto tied = parse_json(weft(small_decode(
      {"--attention", "nsa", "--tie-embeddings", "--dtype", "bf16", "--format", "json"})));
  EXPECT_GT(tied.at("parameter_bytes").get<double>(), 2 * 32 * 50);
  const Outcome csv = weft(small_decode({"--format", "csv"}));
  EXPECT_THAT(csv.out,
              testing::StartsWith("tokens_per_s,token_ms,bytes_per_step,parameter_bytes,"));
  EXPECT_THAT(weft(small_decode({})).out, HasSubstr("ms a token"));
  EXPECT_EQ(weft(small_decode({"--context", "0"})).code, 2);
  EXPECT_EQ(weft(small_decode({"--new-tokens", "x"})).code, 2);
}

TEST(SchedulePattern, IsOneRepetition) {
  EXPECT_EQ(schedule_pattern("full"), std::vector<std::string>({"full"}));
  EXPECT_EQ(schedule_pattern("FF"), std::vector<std::string>({"full", "full"}));
  EXPECT_EQ(schedule_pattern("full*3"), std::vector<std::string>(3, "full"));
  EXPECT_THROW(schedule_pattern("none"), ConfigError);
}

TEST(OptionsOfSchedule, KeepsThoseThatAMechanismHas) {
  EXPECT_EQ(options_of_schedule("full", {"rope=off", "zork=1", "full.head-dim=4", "swa.rope=on"}),
            std::vector<std::string>({"rope=off", "full.head-dim=4"}));
}

TEST(Rows, BecomeCsvAndTables) {
  const nlohmann::ordered_json rows = {{{"a", "x,\"y\""}, {"b", 1}}, {{"a", "z"}, {"b", nullptr}}};
  EXPECT_EQ(to_csv(rows), "a,b\n\"x,\"\"y\"\"\",1\nz,\n");
  EXPECT_EQ(to_csv(rows[1]), "a,b\nz,\n");
  EXPECT_EQ(to_table({{"name", "n"}, {"a", "10"}}), "name   n\na     10\n");
}

}  // namespace
}  // namespace weft::apps
