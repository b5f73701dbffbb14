#include <filesystem>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/attention/registry.h"

#include "common/attention_bench.h"
#include "common/model_options.h"
#include "weft_process.h"

namespace weft::apps {
namespace {

using testing::HasSubstr;

std::string preset(const std::string& name) {
  return WEFT_SOURCE_DIR "/apps/configs/" + name;
}

/// Parameters of a decoder with d_ff and as many key heads as query heads.
int64_t decoder_parameters(int64_t vocab, int64_t layers, int64_t width, int64_t d_ff, bool tied) {
  const int64_t block = 4 * width * width + 3 * width * d_ff + 2 * width;
  return (tied ? 1 : 2) * vocab * width + layers * block + width;
}

TEST(Presets, AllAreConfigFiles) {
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator(preset(""))) {
    SCOPED_TRACE(entry.path());
    const Outcome printed = weft({"train", "--config", entry.path().string(), "--data",
                                  "builtin:stories", "--print-config"});
    EXPECT_EQ(printed.code, 0) << printed.err;
    EXPECT_THAT(printed.out, HasSubstr("# from the config file\n"));
    ++found;
  }
  EXPECT_GE(found, 4);
}

/// `weft train --dry-run` of a preset: what stands behind a label of its description.
std::string described(const Outcome& dry, const std::string& label) {
  const size_t start = dry.err.find("\n" + label + " ");
  if (start == std::string::npos) return "";
  const size_t text = dry.err.find_first_not_of(' ', start + 1 + label.size());
  return dry.err.substr(text, dry.err.find('\n', text) - text);
}

/// "341,099,520 parameters: ..." -> 341099520.
int64_t leading_count(const std::string& text) {
  std::string digits;
  for (const char c : text) {
    if (c != ',' && (c < '0' || c > '9')) break;
    if (c != ',') digits += c;
  }
  return digits.empty() ? -1 : std::stoll(digits);
}

Outcome dry_run(const std::string& name, const Arguments& more = {}) {
  Arguments arguments = {"train", "--config", preset(name), "--dry-run"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return weft(arguments);
}

TEST(Presets, TinyOnesTrainWithoutAnyData) {
  const TemporaryFolder folder;
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator(preset(""))) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("tiny")) continue;
    SCOPED_TRACE(name);
    const std::string run = (folder / name).string();
    const Outcome trained =
        weft({"train", "--config", entry.path().string(), "--out-dir", run, "--max-steps", "4",
              "--batch-size", "2", "--sample-every", "-1", "--eval-sequences", "2"});
    EXPECT_EQ(trained.code, 0) << trained.err;
    EXPECT_THAT(read_bytes(run + "/train.log"), HasSubstr("step 00004/00004"));
    ++found;
  }
  EXPECT_GE(found, 5);
}

TEST(Presets, SmallModelsHaveTheSizeOfTheirName) {
  const TemporaryFolder folder;
  std::string alphabet;
  for (char c = ' '; c < ' ' + 80; ++c) alphabet += c;
  write_bytes(folder / "text.txt", alphabet);
  const Outcome characters = dry_run("kjv-char.ini", {"--data", (folder / "text.txt").string(),
                                                      "--seq-len", "16", "--sample-every", "-1"});
  EXPECT_EQ(leading_count(described(characters, "model")),
            decoder_parameters(80, 6, 384, 1024, false));
  EXPECT_EQ(decoder_parameters(80, 6, 384, 1024, false), 10683264);
  const Outcome gpt = dry_run("124m.ini", {"--data", "builtin:stories"});
  EXPECT_EQ(leading_count(described(gpt, "model")), decoder_parameters(50304, 12, 768, 2048, true));
  EXPECT_EQ(decoder_parameters(50304, 12, 768, 2048, true), 123587328);
}

struct PaperShape {
  const char* preset;
  int64_t parameters;
  const char* layers;
  double cache_bytes;  ///< per token and layer
};

TEST(Presets, ModelsOfThePapersHaveTheirSizes) {
  // Parameters of mha, attention parameters of a layer and cache bytes: the tables of
  // docs/attention.md.
  for (const PaperShape& shape : std::vector<PaperShape>{
           {"mha-340m.ini", 341099520, "24 full of 4,194,304 parameters", 4096},
           {"gqa-340m.ini", 303350784, "24 full of 2,621,440 parameters", 1024},
           {"nsa-340m.ini", 304531584, "24 nsa of 2,670,640 parameters", 1090},
           {"asa-340m.ini", 320265600,
            "12 asa-local of 3,440,896, 12 asa-global of 3,211,552 parameters", 324.07},
           {"mha-1.3b.ini", 1298761728, "24 full of 16,777,216 parameters", 8192},
           {"gqa-1.3b.ini", 1122600960, "24 full of 9,437,184 parameters", 1024},
           {"nsa-1.3b.ini", 1127321856, "24 nsa of 9,633,888 parameters", 1090},
           {"asa-1.3b.ini", 1182376704,
            "12 asa-local of 12,124,416, 12 asa-global of 11,731,264 parameters", 324.07}}) {
    SCOPED_TRACE(shape.preset);
    const Outcome dry = dry_run(shape.preset);
    ASSERT_EQ(dry.code, 0) << dry.err;
    EXPECT_EQ(leading_count(described(dry, "model")), shape.parameters);
    EXPECT_THAT(described(dry, "attention"), HasSubstr(shape.layers));
    EXPECT_THAT(described(dry, "cache"),
                testing::AllOf(testing::StartsWith(fmt::format("{:.1f} bytes per token and layer, ",
                                                               shape.cache_bytes)),
                               HasSubstr("in all, over 8192 tokens")));
  }
}

TEST(DryRun, CountsWhatAModelHas) {
  for (const attention::MechanismInfo& mechanism : attention::mechanisms()) {
    SCOPED_TRACE(mechanism.name);
    for (const bool tied : {false, true}) {
      ModelOptions options;
      options.d_model = 64;
      options.n_heads = 4;
      options.n_kv_heads = 2;
      options.tie_embeddings = tied;
      options.attention_schedule = "full," + mechanism.name + "*2";
      options.n_layers = static_cast<int64_t>(schedule_pattern(options.attention_schedule).size());
      const ModelSummary summary = summarize(options, 50, 96);
      const auto model = options.make_model(50, 1);
      EXPECT_EQ(summary.num_parameters(), model->num_parameters());
      const auto parts = count_parameters(*model);
      ASSERT_EQ(parts.size(), summary.parts.size());
      for (size_t i = 0; i < parts.size(); ++i) {
        EXPECT_EQ(summary.parts[i].part, parts[i].part);
        EXPECT_EQ(summary.parts[i].count, parts[i].count) << parts[i].part;
      }
      EXPECT_EQ(summary.cache_bytes_per_token() * 96,
                static_cast<double>(model->make_cache(1, 96).bytes()));
    }
  }
}

/// The table of docs/attention.md, from the formulas of the caches: elements of a token and layer.
TEST(CacheTable, HasTheElementsOfTheFormulas) {
  const auto rows = parse_json(weft({"attention", "--cache-table", "--format", "json"}));
  const std::vector<double> elements = {2048, 4096, 512, 544, 256, 297, 162, 154.1, 274, 1088, 561};
  ASSERT_EQ(rows.size(), elements.size());
  for (size_t i = 0; i < elements.size(); ++i) {
    EXPECT_NEAR(rows[i].at("elements_per_token").get<double>(), elements[i], 1e-3 * elements[i])
        << rows[i].at("layers");
    EXPECT_EQ(rows[i].at("bytes_per_token").get<double>() * 24,
              rows[i].at("model_bytes_per_token").get<double>());
  }
  EXPECT_NEAR(rows[5].at("to_nsa").get<double>(), 297.0 / 544, 1e-3);
  EXPECT_NEAR(rows[10].at("to_nsa").get<double>(), 561.0 / 1088, 1e-3);
  const Outcome text = weft({"attention", "--cache-table"});
  EXPECT_THAT(text.out, HasSubstr("R1, latents: one latent vector serves as key and value, 512 "
                                  "bytes in the place of 1024 (50.0%)"));
  EXPECT_THAT(text.out, HasSubstr("R2, alternation"));
  EXPECT_THAT(text.out, HasSubstr("50.4% at 64k tokens"));
  const Outcome both = weft({"attention", "asa", "--cache-table"});
  EXPECT_EQ(both.code, 2);
  EXPECT_TRUE(is_one_error_line(both.err)) << both.err;
}

TEST(VocabSize, PadsTheEmbedding) {
  const TemporaryFolder folder;
  const std::string run = (folder / "run").string();
  const Outcome trained =
      weft(train_arguments("builtin:stories", run, {"--vocab-size", "300", "--sample-every", "2"}));
  ASSERT_EQ(trained.code, 0) << trained.err;
  // The padding is never drawn, however even the chances are.
  const Outcome generated = weft({"generate", "--run", run, "--prompt", "a", "--max-new-tokens",
                                  "300", "--temperature", "50"});
  EXPECT_EQ(generated.code, 0) << generated.err;
  EXPECT_EQ(weft({"eval", "--run", run, "--max-sequences", "2"}).code, 0);
  const Outcome small =
      weft(train_arguments("builtin:stories", run, {"--vocab-size", "255", "-q"}));
  EXPECT_EQ(small.code, 2);
  EXPECT_TRUE(is_one_error_line(small.err)) << small.err;
  EXPECT_THAT(small.err, HasSubstr("--vocab-size 255 must be 0 or at least the 256 tokens"));
  const Outcome other =
      weft(train_arguments("builtin:stories", run, {"--vocab-size", "301", "-q"}));
  EXPECT_EQ(other.code, 2);
  EXPECT_THAT(other.err, HasSubstr("vocab-size ('300' saved, '301' given)"));
}

}  // namespace
}  // namespace weft::apps
