#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft_process.h"

namespace weft::apps {
namespace {

using testing::HasSubstr;

/// A run of a few steps that tests only read.
class TrainedRun : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    write_bytes(*folder_ / "text.txt", sample_text(100));
    const Outcome tokenized =
        weft({"tokenize", path("text.txt"), "--out", path("text.h5"), "--valid-fraction", "0.1"});
    ASSERT_EQ(tokenized.code, 0) << tokenized.err;
    const Outcome trained =
        weft(train_arguments(path("text.h5"), path("run"),
                             {"--save-every", "2", "--sample-every", "4", "--sample-tokens", "5",
                              "--sample-prompt", "In "}));
    ASSERT_EQ(trained.code, 0) << trained.err;
    EXPECT_EQ(trained.out, "");
    EXPECT_THAT(trained.err, HasSubstr("step 00004/00004 (100.0%)"));
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static std::string path(const std::string& name) { return (*folder_ / name).string(); }

  static TemporaryFolder* folder_;
};

TemporaryFolder* TrainedRun::folder_ = nullptr;

TEST(CommandLine, HelpOfEveryCommandListsFlagsDefaultsAndAnExample) {
  const Outcome all = weft({"--help"});
  EXPECT_EQ(all.code, 0);
  for (const std::string command : {"tokenize", "train", "eval", "generate", "inspect", "report",
                                    "attention", "bench step", "bench attention"}) {
    Arguments arguments = {command};
    if (command.starts_with("bench ")) arguments = {"bench", command.substr(6)};
    EXPECT_THAT(all.out, HasSubstr("\n  " + arguments.front() + " "));
    const auto ask = [&](const char* flag) {
      Arguments with_flag = arguments;
      with_flag.emplace_back(flag);
      return weft(with_flag);
    };
    const Outcome help = ask("--help");
    EXPECT_EQ(help.code, 0) << command;
    EXPECT_EQ(help.err, "") << command;
    EXPECT_THAT(help.out, HasSubstr("Usage: weft " + command));
    EXPECT_THAT(help.out, HasSubstr("Example:\n  weft " + command));
    EXPECT_THAT(help.out, HasSubstr(" ["));
    EXPECT_EQ(ask("-h").out, help.out);
  }
  EXPECT_EQ(weft({"help"}).out, all.out);
  EXPECT_EQ(weft({"-h"}).out, all.out);
}

TEST_F(TrainedRun, ReportIsAPageWithItsCharts) {
  const Outcome report =
      weft({"report", "--run", path("run"), "--out", path("page.md"), "--title", "A small model"});
  ASSERT_EQ(report.code, 0) << report.err;
  const std::string page = read_bytes(path("page.md"));
  for (const char* part :
       {"# A small model\n", "| parameters | ", "| start to first step | ",
        "- Held-out loss: lowest ", "- Memory in use: ", "](page.svg)", "```ini\ndata = "})
    EXPECT_THAT(page, HasSubstr(part));
  EXPECT_THAT(read_bytes(path("page.svg")), HasSubstr("<svg"));
}

TEST(CommandLine, ShowsItsVersion) {
  for (const char* flag : {"--version", "-V"}) {
    const Outcome version = weft({flag});
    EXPECT_EQ(version.code, 0);
    EXPECT_THAT(version.out, testing::MatchesRegex(
                                 "weft [0-9]+\\.[0-9]+\\.[0-9]+[^\n]*\n[A-Za-z]+ [0-9.]+[^\n]*\n"));
  }
}

TEST(CommandLine, InspectListsTheTypesOfEveryOp) {
  const auto ops = parse_json(weft({"inspect", "--ops", "--format", "json"}));
  const auto find = [&ops](const std::string& name) {
    const auto found =
        std::find_if(ops.begin(), ops.end(), [&](const auto& op) { return op["name"] == name; });
    return found == ops.end() ? nlohmann::json() : *found;
  };
  const std::vector<std::string> floating = {"f64", "f32", "bf16", "f16"};
  EXPECT_EQ(find("softmax").value("folder", ""), "tensor");
  EXPECT_EQ(find("softmax").value("cpu", std::vector<std::string>()), floating);
  EXPECT_EQ(find("flash_attention").value("folder", ""), "attention");
  EXPECT_EQ(find("flash_attention").value("cpu", std::vector<std::string>()), floating);
  EXPECT_EQ(find("adamw").value("cpu", std::vector<std::string>()),
            (std::vector<std::string>{"f64", "f32"}));

  const Outcome text = weft({"inspect", "--ops"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("op                       device  f64  f32 bf16  f16"));
  EXPECT_THAT(text.out,
              HasSubstr("  softmax                cpu     yes  yes  yes  yes    -    -    -    -"));
}

TEST(CommandLine, AttentionShowsLimitsAndCosts) {
  const Outcome text = weft({"attention", "full"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("an integer of at least 0 up to 65536"));
  EXPECT_THAT(text.out, HasSubstr("true or false"));
  EXPECT_THAT(text.out, HasSubstr("2*H*(D+Dv)*T*(T+1)/2"));
  EXPECT_THAT(text.out, HasSubstr("H   query heads"));

  const auto full = parse_json(weft({"attention", "full", "--format", "json"}));
  EXPECT_EQ(full.at("options").at(0).at("max"), 65536);
  const auto& costs = full.at("costs");
  EXPECT_EQ(costs.at("formulas").at("cache per token kept (bytes)"), "Hk*(D+Dv)*s");
  const auto& row = costs.at("example").at("costs").at(1);
  EXPECT_EQ(row.at("tokens"), 8192);
  EXPECT_EQ(row.at("projection_flops_per_token"), 2 * 192 * 4 * 192);
  EXPECT_EQ(row.at("attention_flops_per_token"), 2 * 192 * 8193);
  EXPECT_EQ(row.at("cache_bytes_bf16"), 8192 * 2 * 192 * 2);
}

TEST(CommandLine, NeedsACommand) {
  EXPECT_EQ(weft({}).code, 2);
  const Outcome close = weft({"trian"});
  EXPECT_EQ(close.code, 2);
  EXPECT_EQ(close.err,
            "weft: unknown command 'trian', did you mean 'train'; weft --help lists them\n");
}

TEST(CommandLine, DryRunAndPrintConfigWriteNothing) {
  const TemporaryFolder folder;
  const Outcome dry = weft(train_arguments("builtin:stories", folder / "run", {"--dry-run"}));
  EXPECT_EQ(dry.code, 0) << dry.err;
  EXPECT_THAT(dry.err, HasSubstr("parameters"));
  EXPECT_THAT(dry.err, HasSubstr("memory"));
  const Outcome config =
      weft(train_arguments("builtin:stories", folder / "run", {"--print-config", "--lr", "0.125"}));
  EXPECT_EQ(config.code, 0);
  EXPECT_THAT(config.out, HasSubstr("# from flags\n"));
  EXPECT_THAT(config.out, HasSubstr("lr = 0.125\n"));
  EXPECT_EQ(io::count_entries(folder.path()), 0);

  // What is printed is itself a config file.
  write_bytes(folder / "a.ini", config.out);
  const Outcome again = weft({"train", "--config", (folder / "a.ini").string(), "--print-config"});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("lr = 0.125\n"));
  const auto sorted = [](std::string text) {
    std::vector<std::string> lines;
    std::stringstream stream(text);
    for (std::string line; std::getline(stream, line);) {
      if (!line.starts_with('#')) lines.push_back(line);
    }
    std::sort(lines.begin(), lines.end());
    return lines;
  };
  EXPECT_EQ(sorted(again.out), sorted(config.out));
}

TEST(CommandLine, TrainsOnBuiltInData) {
  const TemporaryFolder folder;
  for (const char* data : {"builtin:stories", "builtin:recall"}) {
    const std::string run = (folder / data).string();
    const Outcome trained = weft(train_arguments(data, run, {"--seq-len", "64", "-q"}));
    EXPECT_EQ(trained.code, 0) << trained.err;
    EXPECT_EQ(trained.err, "") << "-q silences";
    EXPECT_EQ(trained.out, "");
    EXPECT_THAT(read_bytes(run + "/train.log"), HasSubstr("step 00004"));
    const Outcome scored =
        weft({"eval", "--run", run, "--max-sequences", "2", "--format", "json", "-q"});
    EXPECT_EQ(scored.code, 0) << scored.err;
    EXPECT_GT(parse_json(scored).value("tokens", 0), 0);
  }
}

TEST(CommandLine, LogLevelComesFromTheEnvironment) {
  const TemporaryFolder folder;
  const Outcome quiet = weft(train_arguments("builtin:stories", folder / "a"),
                             {.environment = {{"WEFT_LOG_LEVEL", "error"}}});
  EXPECT_EQ(quiet.code, 0);
  EXPECT_EQ(quiet.err, "");
  const Outcome bad = weft(train_arguments("builtin:stories", folder / "b"),
                           {.environment = {{"WEFT_LOG_LEVEL", "loud"}}});
  EXPECT_EQ(bad.code, 2);
  EXPECT_TRUE(is_one_error_line(bad.err)) << bad.err;
  EXPECT_THAT(bad.err, HasSubstr("WEFT_LOG_LEVEL"));
}

TEST(CommandLine, TokenizesFilesFoldersAndJsonLines) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "texts");
  write_bytes(folder / "texts" / "a.txt", sample_text(30));
  write_bytes(folder / "texts" / "b.md", sample_text(40));
  write_bytes(folder / "texts" / "ignored.bin", "\xff");
  std::string lines;
  for (int i = 0; i < 60; ++i) lines += "{\"body\": \"Zeile " + std::to_string(i) + " ä\"}\n";
  write_bytes(folder / "c.jsonl", lines);
  for (const std::string tokenizer : {"bytes", "char"}) {
    const std::string out = (folder / (tokenizer + ".h5")).string();
    const Outcome from_folder =
        weft({"tokenize", (folder / "texts").string(), "--tokenizer", tokenizer, "-o", out});
    ASSERT_EQ(from_folder.code, 0) << from_folder.err;
    EXPECT_EQ(from_folder.out, "");
    EXPECT_THAT(from_folder.err, HasSubstr("2 documents"));
    const auto dataset = parse_json(weft({"inspect", out, "--format", "json"}));
    EXPECT_EQ(dataset.at("kind"), "dataset");
    EXPECT_EQ(dataset.at("tokenizer"), tokenizer);
    // Both texts and the separator between them.
    EXPECT_EQ(dataset.at("train_tokens").get<size_t>() + dataset.at("valid_tokens").get<size_t>(),
              sample_text(30).size() + sample_text(40).size() + 2);

    const Outcome from_lines = weft({"tokenize", "--input", (folder / "c.jsonl").string(),
                                     "--field", "body", "--tokenizer", tokenizer, "-o", out});
    ASSERT_EQ(from_lines.code, 0) << from_lines.err;
    EXPECT_THAT(from_lines.err, HasSubstr("60 documents"));
  }
}

TEST_F(TrainedRun, EvalPrintsOneResultInEveryFormat) {
  const Outcome json = weft({"eval", "--run", path("run"), "--format", "json"});
  ASSERT_EQ(json.code, 0) << json.err;
  const auto result = parse_json(json);
  const double loss = result.at("loss");
  EXPECT_GT(loss, 0);
  EXPECT_NEAR(result.at("perplexity").get<double>(), std::exp(loss), 1e-6 * std::exp(loss));
  // Bytes are the tokens: bits per byte are the loss in bits.
  EXPECT_NEAR(result.at("bits_per_byte").get<double>(), loss / std::log(2.0), 1e-9);
  const auto dataset = parse_json(weft({"inspect", path("text.h5"), "--format", "json"}));
  EXPECT_EQ(result.at("tokens").get<int>(), dataset.at("valid_tokens").get<int>() - 1);
  EXPECT_EQ(result.at("step"), 4);

  const Outcome csv = weft({"eval", "--run", path("run"), "--format", "csv"});
  EXPECT_EQ(std::count(csv.out.begin(), csv.out.end(), '\n'), 2);
  EXPECT_THAT(csv.out, testing::StartsWith("suite,loss,perplexity,bits_per_byte,tokens,"));
  EXPECT_THAT(csv.out, HasSubstr("\nloss," + result.at("loss").dump() + ","));
  const Outcome text = weft({"eval", "--run", path("run")});
  EXPECT_THAT(text.out, HasSubstr("bits_per_byte   " + result.at("bits_per_byte").dump() + "\n"));
  // The score does not hang on how sequences are put in batches.
  const auto batched =
      parse_json(weft({"eval", "--run", path("run"), "--format", "json", "--batch-size", "5"}));
  EXPECT_NEAR(batched.at("loss").get<double>(), loss, 1e-5);
}

TEST_F(TrainedRun, EvalChecksALimit) {
  EXPECT_EQ(weft({"eval", "--run", path("run"), "--max-bits-per-byte", "20"}).code, 0);
  const Outcome high = weft({"eval", "--run", path("run"), "--max-bits-per-byte", "0.5"});
  EXPECT_EQ(high.code, 3);
  EXPECT_TRUE(is_one_error_line(high.err)) << high.err;
  EXPECT_THAT(high.out, HasSubstr("bits_per_byte"));
}

TEST_F(TrainedRun, GenerateRepeatsItselfAndItsCacheChangesNothing) {
  const Arguments base = {"generate",         "--run", path("run"), "--prompt", "In ",
                          "--max-new-tokens", "40"};
  const auto generate = [&](const Arguments& more) {
    Arguments arguments = base;
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = weft(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.out;
  };
  const std::string first = generate({"--seed", "1"});
  EXPECT_THAT(first, testing::StartsWith("In "));
  EXPECT_EQ(generate({"--seed", "1"}), first);
  EXPECT_NE(generate({"--seed", "2"}), first);
  EXPECT_EQ(generate({"--temperature", "0", "--cache"}),
            generate({"--temperature", "0", "--no-cache"}));
  EXPECT_EQ(generate({"--seed", "1", "--no-cache"}), first);
  EXPECT_EQ(generate({"--max-new-tokens", "40"}), generate({"--seed", "0"}));
  write_bytes(*folder_ / "prompt.txt", "In ");
  const Outcome from_file = weft({"generate", "--run", path("run"), "--prompt-file",
                                  path("prompt.txt"), "--max-new-tokens", "40", "--seed", "1"});
  EXPECT_EQ(from_file.out, first);
}

TEST_F(TrainedRun, InspectShowsRunAndCheckpoint) {
  const auto run = parse_json(weft({"inspect", path("run"), "--format", "json"}));
  EXPECT_EQ(run.at("kind"), "run");
  EXPECT_EQ(run.at("step"), 4);
  EXPECT_EQ(run.at("checkpoints"), nlohmann::json({2, 4}));
  int64_t sum = 0;
  for (const auto& [part, count] : run.at("parts").items()) sum += count.get<int64_t>();
  EXPECT_EQ(sum, run.at("parameters").get<int64_t>());
  const auto checkpoint =
      parse_json(weft({"inspect", path("run/checkpoints/step-00000002.h5"), "--format", "json"}));
  EXPECT_EQ(checkpoint.at("kind"), "checkpoint");
  EXPECT_EQ(checkpoint.at("step"), 2);
  EXPECT_EQ(checkpoint.at("tensors").size(), run.at("tensors").size());
  EXPECT_NE(checkpoint.at("tensors"), run.at("tensors"));
  const Outcome text = weft({"inspect", path("run")});
  EXPECT_EQ(text.code, 0);
  EXPECT_THAT(text.out, HasSubstr("weights.model.embed_tokens.weight"));
}

TEST_F(TrainedRun, WritesEverythingOfTheRun) {
  for (const char* name : {"config.ini", "tokenizer.json", "train.log", "metrics.csv",
                           "samples.txt", "facts.json", "report.html", "checkpoints/latest"}) {
    EXPECT_TRUE(std::filesystem::exists(path(std::string("run/") + name))) << name;
  }
  EXPECT_THAT(read_bytes(path("run/samples.txt")), testing::StartsWith("=== step 4\nIn "));
  EXPECT_EQ(losses(path("run")).size(), 4u);
}

TEST_F(TrainedRun, ItsConfigTrainsTheSameAgain) {
  const Outcome again =
      weft({"train", "--config", path("run/config.ini"), "--out-dir", path("again")});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(losses(path("again")), losses(path("run")));
  EXPECT_EQ(tensor_hashes(path("again")), tensor_hashes(path("run")));
  EXPECT_EQ(read_bytes(path("again/samples.txt")), read_bytes(path("run/samples.txt")));
  const Outcome done = weft({"train", "--config", path("run/config.ini")});
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_THAT(done.err, HasSubstr("nothing to do"));
}

TEST_F(TrainedRun, SaysWhenStdoutCannotBeWritten) {
  const std::vector<Arguments> commands = {
      {"--help"},
      {"--version"},
      {"train", "--help"},
      {"train", "--data", "a", "--print-config"},
      {"eval", "--run", path("run"), "--format", "json"},
      {"inspect", path("run")},
      {"attention"},
      {"generate", "--run", path("run"), "--max-new-tokens", "5"}};
  for (const Arguments& command : commands) {
    for (const Stream stream : {Stream::full_disk, Stream::closed}) {
      const Outcome outcome = weft(command, {.out = stream});
      EXPECT_EQ(outcome.code, 1) << command.front();
      EXPECT_THAT(outcome.err, HasSubstr("stdout cannot be written")) << command.front();
    }
  }
}

TEST_F(TrainedRun, GenerateEndsQuietlyWhenNobodyReads) {
  const Outcome outcome = weft({"generate", "--run", path("run"), "--max-new-tokens", "1M"},
                               {.out = Stream::broken_pipe});
  EXPECT_FALSE(outcome.timed_out);
  EXPECT_EQ(outcome.code, 128 + SIGPIPE);
  EXPECT_EQ(outcome.err, "");
}

TEST_F(TrainedRun, ClosedStandardStreamsDoNotEndUpInFiles) {
  const Outcome outcome =
      weft(train_arguments(path("text.h5"), path("closed"), {"--save-every", "1"}),
           {.out = Stream::closed, .err = Stream::closed});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(weft({"inspect", path("closed")}).code, 0);
  EXPECT_EQ(losses(path("closed")), losses(path("run")));
}

}  // namespace
}  // namespace weft::apps
