#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "weft/io/checkpoint.h"
#include "weft/io/hdf5.h"
#include "weft/io/tokenizer.h"
#include "weft/tensor/tensor.h"

#include "places.h"

namespace weft::apps {
namespace {

using testing::HasSubstr;

/// Everything below a folder, as names with sizes: what a failed command must not change.
std::vector<std::string> listing(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& item : std::filesystem::recursive_directory_iterator(folder)) {
    names.push_back(item.path().string());
    if (item.is_regular_file()) names.back().append(" ").append(std::to_string(item.file_size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Copies a checkpoint with one element of one tensor replaced.
void poison(const std::filesystem::path& from, const std::filesystem::path& to,
            const std::string& tensor, float value) {
  const io::CheckpointReader reader(from);
  io::CheckpointWriter writer(to);
  for (const io::CheckpointEntry& entry : reader.entries()) {
    switch (entry.kind) {
      case io::CheckpointEntry::Kind::tensor: {
        Tensor copy = reader.tensor(entry.name).clone();
        if (entry.name == tensor) copy.data<float>()[0] = value;
        writer.add(entry.name, copy);
        break;
      }
      case io::CheckpointEntry::Kind::text:
        writer.add_text(entry.name, reader.text(entry.name));
        break;
      case io::CheckpointEntry::Kind::integer:
        writer.add_int(entry.name, reader.get_int(entry.name));
        break;
      case io::CheckpointEntry::Kind::real:
        writer.add_double(entry.name, reader.get_double(entry.name));
        break;
    }
  }
  writer.commit();
}

/// A dataset of bytes with these ids, which may be none of its vocabulary.
void write_dataset(const std::filesystem::path& path, const std::vector<uint16_t>& train,
                   const std::vector<uint16_t>& valid) {
  const auto tokenizer = io::make_tokenizer("bytes");
  io::Hdf5Writer file(path);
  for (const auto& [group, ids] : {std::pair{"/train", &train}, std::pair{"/valid", &valid}}) {
    file.create_group(group);
    const std::string tokens = std::string(group) + "/tokens";
    file.create_stream(tokens, io::ElementType::u16, 4096);
    file.append(tokens, ids->data(), static_cast<int64_t>(ids->size()));
  }
  file.write_text("/tokenizer", tokenizer->to_json());
  file.set_attribute("/", "format", "weft-tokens");
  file.set_attribute("/", "format_version", int64_t{1});
  file.set_attribute("/", "vocab_size", int64_t{256});
  file.set_attribute("/", "tokenizer", "bytes");
  file.set_attribute("/", "tokenizer_hash", tokenizer->hash());
  file.commit();
}

struct Mistake {
  const char* name;
  Arguments arguments;  ///< "@" stands for the folder
  int code;
  const char* says;
};

void PrintTo(const Mistake& mistake, std::ostream* out) {
  *out << mistake.name;
}

/// A folder with a run, datasets and many bad files.
class BadFiles : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    const auto& f = *folder_;
    write_bytes(f / "text.txt", sample_text(60));
    write_bytes(f / "short.txt", "Ten bytes.");
    write_bytes(f / "empty.txt", "");
    write_bytes(f / "latin1.txt", sample_text(40) + "Sch\xf6n\n" + sample_text(20));
    write_bytes(f / "bad.jsonl", "{\"text\": \"a\"}\n{\"text\": 3}\n");
    write_bytes(f / "torn.jsonl", "{\"text\": \"a\"}\n{\"text\": \n");
    write_bytes(f / "foreign.h5", "\x89HDF\r\n\x1a\n" + std::string(4000, '\x07'));
    write_bytes(f / "unknown.ini", "data = text.txt\nsequence-len = 3\n");
    write_bytes(f / "noise.ini",
                std::string("\x1b[31m\x00\xff\r\x07", 10) + std::string(200, '\x9c'));
    std::filesystem::create_directory(f / "folder");
    ASSERT_EQ(weft({"tokenize", path("text.txt"), "-o", path("text.h5")}).code, 0);
    ASSERT_EQ(
        weft({"tokenize", path("text.txt"), "--tokenizer", "char", "-o", path("char.h5")}).code, 0);
    const std::string dataset = read_bytes(f / "text.h5");
    write_bytes(f / "truncated.h5", dataset.substr(0, dataset.size() / 2));
    write_dataset(f / "beyond.h5", std::vector<uint16_t>(500, 300), {65, 66, 67});
    write_dataset(f / "beyond-valid.h5", std::vector<uint16_t>(500, 65), {65, 300, 67});
    ASSERT_EQ(weft(train_arguments(path("text.h5"), path("run"), {"--save-every", "2"})).code, 0);
    poison(f / "run/checkpoints/step-00000002.h5", f / "poisoned.h5",
           "weights.model.layers.0.mlp.up_proj.weight", std::numeric_limits<float>::quiet_NaN());
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static std::string path(const std::string& name) { return (*folder_ / name).string(); }

  static TemporaryFolder* folder_;
};

TemporaryFolder* BadFiles::folder_ = nullptr;

class BadInput : public BadFiles, public testing::WithParamInterface<Mistake> {};

TEST_P(BadInput, GetsOneLineAndItsCodeAndChangesNothing) {
  Arguments arguments = GetParam().arguments;
  for (std::string& argument : arguments) {
    if (argument.starts_with("@/")) argument = path(argument.substr(2));
  }
  if (arguments.front() == "train") {
    for (const char* flag : {"--data", "--out-dir"}) {
      if (std::find(arguments.begin(), arguments.end(), flag) != arguments.end()) continue;
      const bool has_config =
          std::find(arguments.begin(), arguments.end(), "--config") != arguments.end();
      if (flag[2] == 'd' && has_config) continue;
      arguments.insert(arguments.end(), {flag, path(flag[2] == 'd' ? "text.h5" : "new")});
    }
    arguments.emplace_back("-q");
  }
  const auto before = listing(folder_->path());
  const Outcome outcome = weft(arguments, {.folder = folder_->path(), .timeout = 20});
  EXPECT_EQ(outcome.code, GetParam().code) << outcome.err;
  EXPECT_TRUE(is_one_error_line(outcome.err)) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr(GetParam().says));
  for (const char c : outcome.err) {
    EXPECT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= ' ') << "a control character";
  }
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(listing(folder_->path()), before);
}

constexpr int kRunTime = 1;
constexpr int kWrongUse = 2;

INSTANTIATE_TEST_SUITE_P(
    Data, BadInput,
    testing::Values(
        Mistake{"Missing", {"train", "--data", "@/none.txt"}, kRunTime, "none.txt"},
        Mistake{"MissingDataset", {"train", "--data", "@/none.h5"}, kRunTime, "none.h5"},
        Mistake{"None", {"train", "--data", ""}, kWrongUse, "--data"},
        Mistake{"Empty", {"train", "--data", "@/empty.txt"}, kRunTime, "empty.txt"},
        Mistake{"EmptyFolder", {"train", "--data", "@/folder"}, kRunTime, "folder"},
        Mistake{"Device", {"train", "--data", "/dev/zero"}, kRunTime, "not a regular file"},
        Mistake{"Truncated", {"train", "--data", "@/truncated.h5"}, kRunTime, "truncated.h5"},
        Mistake{"Foreign", {"train", "--data", "@/foreign.h5"}, kRunTime, "foreign.h5"},
        Mistake{"Checkpoint", {"train", "--data", "@/run/checkpoints/latest"}, kRunTime, "latest"},
        Mistake{"TooShort", {"train", "--data", "@/short.txt"}, kRunTime, "short.txt"},
        Mistake{"ShorterThanASequence", {"train", "--seq-len", "64k"}, kWrongUse, "65536"},
        Mistake{
            "UnknownBuiltIn", {"train", "--data", "builtin:storie"}, kWrongUse, "builtin:stories"},
        Mistake{"InvalidUtf8",
                {"train", "--data", "@/latin1.txt", "--tokenizer", "char"},
                kRunTime,
                "invalid UTF-8 at byte"},
        Mistake{"UnknownTokenizer",
                {"train", "--data", "@/text.txt", "--tokenizer", "bpe"},
                kWrongUse,
                "bpe"},
        Mistake{"PromptOutsideTheVocabulary",
                {"train", "--data", "@/char.h5", "--sample-every", "2", "--sample-prompt", "Ü"},
                kRunTime,
                "not among its"}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Flags, BadInput,
    testing::Values(
        Mistake{"NoData", {"train", "--config", "/dev/null"}, kWrongUse, "--data is required"},
        Mistake{"EmptyOutDir", {"train", "--out-dir", ""}, kWrongUse, "--out-dir"},
        Mistake{"OutDirIsAFile", {"train", "--out-dir", "@/text.txt"}, kRunTime, "text.txt"},
        Mistake{"OutDirBelowAFile", {"train", "--out-dir", "@/text.txt/run"}, kRunTime, "text.txt"},
        Mistake{"OutDirCannotBeMade", {"train", "--out-dir", "/proc/run"}, kRunTime, "/proc/run"},
        Mistake{"LongOutDir",
                {"train", "--out-dir", "@/" + std::string(300, 'x')},
                kRunTime,
                "too long"},
        Mistake{"ZeroSteps", {"train", "--max-steps", "0"}, kWrongUse, "--max-steps: 0"},
        Mistake{"NegativeBatch", {"train", "--batch-size", "-3"}, kWrongUse, "--batch-size: -3"},
        Mistake{"HugeRate", {"train", "--lr", "1e30"}, kWrongUse, "--lr: 1e30"},
        Mistake{"HugeWidth", {"train", "--d-model", "1e30"}, kWrongUse, "--d-model: '1e30'"},
        Mistake{"HugeSteps", {"train", "--max-steps", "8589934592G"}, kWrongUse, "too large"},
        Mistake{"EmptyNumber", {"train", "--lr", ""}, kWrongUse, "--lr: ''"},
        Mistake{"UnicodeNumber", {"train", "--seq-len", "١٢"}, kWrongUse, "--seq-len"},
        Mistake{"UnicodeFlag", {"train", "--größe", "3"}, kWrongUse, "--größe"},
        Mistake{"EmptyArgument", {"train", ""}, kWrongUse, "unexpected argument"},
        Mistake{"EmptyChoice", {"train", "--optimizer", ""}, kWrongUse, "adamw, muon, sgd"},
        Mistake{"HeadsDoNotDivide", {"train", "--d-model", "63"}, kWrongUse, "63"},
        Mistake{
            "GroupsDoNotDivide", {"train", "--n-heads", "6", "--n-kv-heads", "4"}, kWrongUse, "4"},
        Mistake{"UnknownMechanism", {"train", "--attention", "ful"}, kWrongUse, "ful"},
        Mistake{"EmptyMechanism", {"train", "--attention", ""}, kWrongUse, "attention"},
        Mistake{"WrongSchedule",
                {"train", "--attention-schedule", "full*999999999999"},
                kWrongUse,
                "schedule"},
        Mistake{
            "UnknownMechanismOption", {"train", "--attention-opt", "zork=1"}, kWrongUse, "zork"},
        Mistake{"ZeroLogPeriod", {"train", "--log-every", "0"}, kWrongUse, "--log-every"},
        Mistake{
            "ZeroEvalSequences", {"train", "--eval-sequences", "0"}, kWrongUse, "--eval-sequences"},
        Mistake{"ZeroCheckpoints",
                {"train", "--keep-checkpoints", "0"},
                kWrongUse,
                "--keep-checkpoints"},
        Mistake{"FinalRateAbovePeak",
                {"train", "--lr", "1e-5", "--min-lr", "1"},
                kWrongUse,
                "--min-lr"},
        Mistake{"LongWarmup",
                {"train", "--max-steps", "4", "--warmup-steps", "5"},
                kWrongUse,
                "--warmup-steps"},
        Mistake{"UnknownReport", {"train", "--report-to", "csv,wandb"}, kWrongUse, "wandb"},
        Mistake{"UnknownDevice", {"train", "--device", "gpu"}, kWrongUse, "gpu"},
        Mistake{"Gpu", {"train", "--device", "cuda"}, kRunTime, "--device cuda"},
        Mistake{"TooManyThreads", {"train", "--threads", "4097"}, kWrongUse, "--threads"},
        Mistake{"NegativeThreads", {"train", "--threads", "-1"}, kWrongUse, "--threads"},
        Mistake{"Conflict",
                {"generate", "--run", "@/run", "--prompt", "a", "--prompt-file", "b"},
                kWrongUse,
                "exclude"},
        Mistake{"UnknownConfigKey",
                {"train", "--config", "@/unknown.ini"},
                kWrongUse,
                "unknown.ini:2: unknown key"},
        Mistake{"NoiseAsConfig", {"train", "--config", "@/noise.ini"}, kWrongUse, "noise.ini:1"},
        Mistake{"FolderAsConfig", {"train", "--config", "@/folder"}, kWrongUse, "cannot read"},
        Mistake{"MissingConfig", {"train", "--config", "@/none.ini"}, kWrongUse, "none.ini"},
        Mistake{"MissingResume", {"train", "--resume", "@/none.h5"}, kRunTime, "none.h5"},
        Mistake{"EmptyResume", {"train", "--resume", ""}, kRunTime, "--resume"}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Runs, BadInput,
    testing::Values(
        Mistake{"EvalMissing", {"eval", "--run", "@/none"}, kRunTime, "does not exist"},
        Mistake{"EvalEmptyPath", {"eval", "--run", ""}, kRunTime, "does not exist"},
        Mistake{"EvalEmptyFolder", {"eval", "--run", "@/folder"}, kRunTime, "no checkpoint"},
        Mistake{"EvalText", {"eval", "--run", "@/text.txt"}, kRunTime, "text.txt"},
        Mistake{"EvalDataset", {"eval", "--run", "@/text.h5"}, kRunTime, "text.h5"},
        Mistake{"EvalForeign", {"eval", "--run", "@/foreign.h5"}, kRunTime, "foreign.h5"},
        Mistake{"EvalOtherTokenizer",
                {"eval", "--run", "@/run", "--data", "@/char.h5"},
                kWrongUse,
                "tokenizer"},
        Mistake{"EvalIdsBeyond",
                {"eval", "--run", "@/run", "--data", "@/beyond-valid.h5"},
                kRunTime,
                "token id 300 at position 1 is outside the vocabulary of 256"},
        Mistake{"EvalUnknownSuite",
                {"eval", "--run", "@/run", "--suite", "lambada"},
                kWrongUse,
                "lambada"},
        Mistake{"EvalNothing",
                {"eval", "--run", "@/run", "--max-sequences", "0"},
                kWrongUse,
                "nothing"},
        Mistake{"GenerateMissing", {"generate", "--run", "@/none"}, kRunTime, "does not exist"},
        Mistake{"GenerateNoRun", {"generate"}, kWrongUse, "--run is required"},
        Mistake{"GenerateEmptyPrompt",
                {"generate", "--run", "@/run", "--prompt", ""},
                kWrongUse,
                "--prompt"},
        Mistake{"GenerateEmptyPromptFile",
                {"generate", "--run", "@/run", "--prompt-file", "@/empty.txt"},
                kWrongUse,
                "--prompt-file"},
        Mistake{"GenerateFolderAsPrompt",
                {"generate", "--run", "@/run", "--prompt-file", "@/folder"},
                kWrongUse,
                "--prompt-file"},
        Mistake{"GenerateHot",
                {"generate", "--run", "@/run", "--temperature", "nan"},
                kWrongUse,
                "nan"},
        Mistake{
            "GenerateTopP", {"generate", "--run", "@/run", "--top-p", "0"}, kWrongUse, "--top-p"},
        Mistake{"GeneratePoisoned", {"generate", "--run", "@/poisoned.h5"}, 3, "up_proj"},
        Mistake{"InspectMissing", {"inspect", "@/none"}, kRunTime, "does not exist"},
        Mistake{"InspectTwo", {"inspect", "@/run", "@/run"}, kWrongUse, "one path"},
        Mistake{"InspectNothing", {"inspect"}, kWrongUse, "--ops"},
        Mistake{"InspectOpsOfAPath", {"inspect", "--ops", "@/run"}, kWrongUse, "exclude"},
        Mistake{"InspectText", {"inspect", "@/text.txt"}, kRunTime, "text.txt"},
        Mistake{"InspectForeign", {"inspect", "@/foreign.h5"}, kRunTime, "foreign.h5"},
        Mistake{"InspectTruncated", {"inspect", "@/truncated.h5"}, kRunTime, "truncated.h5"},
        Mistake{"InspectEmptyFolder", {"inspect", "@/folder"}, kRunTime, "folder"},
        Mistake{"ReportOfNothing",
                {"report", "--run", "@/folder", "--out", "@/a.md"},
                kRunTime,
                "is no run folder"},
        Mistake{"ReportAsHtml", {"report", "--run", "@/run", "--out", "a.html"}, kWrongUse, ".md"},
        Mistake{"ReportNowhere",
                {"report", "--run", "@/run", "--out", "@/none/a.md"},
                kRunTime,
                "none"}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Tokenize, BadInput,
    testing::Values(
        Mistake{"NoInput", {"tokenize", "-o", "@/new.h5"}, kWrongUse, "--input"},
        Mistake{"NoOutput", {"tokenize", "@/text.txt"}, kWrongUse, "--out is required"},
        Mistake{"Missing", {"tokenize", "@/none.txt", "-o", "@/new.h5"}, kRunTime, "none.txt"},
        Mistake{"OntoItself",
                {"tokenize", "@/text.txt", "-o", "@/folder/../text.txt"},
                kWrongUse,
                "one of the inputs"},
        Mistake{"OntoAFolder", {"tokenize", "@/text.txt", "-o", "@/folder"}, kRunTime, "folder"},
        Mistake{
            "IntoNoFolder", {"tokenize", "@/text.txt", "-o", "@/no/new.h5"}, kRunTime, "new.h5"},
        Mistake{"Empty", {"tokenize", "@/empty.txt", "-o", "@/new.h5"}, kRunTime, "empty"},
        Mistake{"NotText",
                {"tokenize", "@/bad.jsonl", "-o", "@/new.h5"},
                kRunTime,
                "bad.jsonl' line 2"},
        Mistake{"NotJson",
                {"tokenize", "@/torn.jsonl", "-o", "@/new.h5"},
                kRunTime,
                "torn.jsonl' line 2"},
        Mistake{"NoField",
                {"tokenize", "@/bad.jsonl", "--field", "body", "-o", "@/new.h5"},
                kRunTime,
                "body"},
        Mistake{"InvalidUtf8",
                {"tokenize", "@/latin1.txt", "--tokenizer", "char", "-o", "@/new.h5"},
                kRunTime,
                "invalid UTF-8 at byte"},
        Mistake{"HeldOutTooMuch",
                {"tokenize", "@/text.txt", "--valid-fraction", "1", "-o", "@/new.h5"},
                kWrongUse,
                "--valid-fraction"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(BadInput, BytesKeepWhatIsNoUtf8) {
  const Outcome outcome = weft({"tokenize", path("latin1.txt"), "-o", path("latin1.h5")});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const auto dataset = parse_json(weft({"inspect", path("latin1.h5"), "--format", "json"}));
  EXPECT_EQ(dataset.at("train_tokens").get<size_t>() + dataset.at("valid_tokens").get<size_t>(),
            read_bytes(path("latin1.txt")).size());
}

TEST_F(BadInput, IdsBeyondTheVocabularyStopTheRunAndNameTheirPlace) {
  const Outcome outcome =
      weft(train_arguments(path("beyond.h5"), path("beyond"), {"--valid-fraction", "0", "-q"}));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_TRUE(is_one_error_line(outcome.err)) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("token id 300"));
}

class NotFinite : public PlaceTest<BadFiles> {
 protected:
  /// A folder for a run of this place alone.
  static std::string run_folder(const std::string& name) {
    return path(name + "-" + GetParam().name);
  }
};

TEST_P(NotFinite, PoisonedWeightsEndARunWithThreeAndNameTheTensor) {
  const std::string run = run_folder("poisoned");
  const Outcome outcome = train(path("text.h5"), run, {"--resume", path("poisoned.h5"), "-q"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_TRUE(is_one_error_line(outcome.err)) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("step 3"));
  EXPECT_THAT(outcome.err, HasSubstr("model.layers.0.mlp.up_proj.weight"));
  EXPECT_FALSE(std::filesystem::exists(run + "/checkpoints"));
  const Arguments eval = {"eval",   "--run",         path("poisoned.h5"),
                          "--data", path("text.h5"), "--format",
                          "json",   "--device",      GetParam().gpu ? "cuda" : "cpu"};
  const Outcome scored = weft(eval, GetParam().options());
  EXPECT_EQ(scored.code, 3);
  EXPECT_TRUE(is_one_error_line(scored.err)) << scored.err;
  EXPECT_TRUE(parse_json(scored).at("loss").is_null());
}

TEST_P(NotFinite, DivergenceEndsARunWithThreeAndKeepsFiniteCheckpoints) {
  for (const char* optimizer : {"sgd", "adamw"}) {
    const std::string run = run_folder(std::string("diverged-") + optimizer);
    const Outcome outcome =
        train(path("text.h5"), run,
              {"--lr", "1e3", "--grad-clip", "0", "--optimizer", optimizer, "--max-steps", "500",
               "--save-every", "1", "--eval-every", "-1", "--init-std", "5", "-q"});
    ASSERT_EQ(outcome.code, 3) << outcome.err;
    EXPECT_TRUE(is_one_error_line(outcome.err)) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("error: step "));
    EXPECT_THAT(outcome.err, HasSubstr("model."));
    if (!std::filesystem::exists(run + "/checkpoints")) continue;
    for (const auto& [name, shape] : std::vector<std::pair<std::string, int>>{
             {"weights.model.embed_tokens.weight", 0}, {"weights.model.norm.weight", 0}}) {
      const io::CheckpointReader reader(run + "/checkpoints/latest");
      for (const float value : reader.tensor(name).to_vector<float>())
        ASSERT_TRUE(std::isfinite(value));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Places, NotFinite,
    testing::Values(Place{"OnCpu"}, Place{"OnGpu", {"--device", "cuda"}, true},
                    // Launched op by op instead of replayed from a graph.
                    Place{"OnGpuProfiled", {"--device", "cuda", "--profile=/dev/null"}, true}),
    &name_of);

TEST_F(BadInput, OneProcessAtATimeTrainsInARunFolder) {
  const Arguments command =
      train_arguments("builtin:stories", path("shared"), {"--max-steps", "1M", "-q"});
  Process first(command);
  ASSERT_TRUE(first.wait_for(path("shared/metrics.csv")));
  const Outcome second = weft(command);
  EXPECT_EQ(second.code, 1);
  EXPECT_TRUE(is_one_error_line(second.err)) << second.err;
  EXPECT_THAT(second.err, HasSubstr("in use by process"));
  first.send(SIGTERM);
  EXPECT_EQ(first.wait().code, 128 + SIGTERM);
  EXPECT_EQ(weft({"eval", "--run", path("shared"), "--max-sequences", "1"}).code, 0);
}

TEST_F(BadInput, AFullDiskWhileSavingKeepsTheOlderCheckpoint) {
  const auto save = [&](int steps, int64_t most_file_bytes) {
    return weft(train_arguments(path("text.h5"), path("full"),
                                {"--max-steps", std::to_string(steps), "--report-to", "csv", "-q"}),
                {.most_file_bytes = most_file_bytes});
  };
  ASSERT_EQ(save(4, -1).code, 0);
  const auto before = tensor_hashes(path("full"));
  // Metrics and log fit, a checkpoint does not; then nothing does.
  for (const int64_t limit : {int64_t{20000}, int64_t{100}, int64_t{0}}) {
    const Outcome full = save(8, limit);
    EXPECT_EQ(full.code, 1) << full.err;
    EXPECT_FALSE(full.killed) << "by SIGXFSZ";
    EXPECT_EQ(tensor_hashes(path("full")), before);
    EXPECT_EQ(weft({"eval", "--run", path("full"), "--max-sequences", "1"}).code, 0);
  }
  const Outcome after = save(8, -1);
  EXPECT_EQ(after.code, 0) << after.err;
  ASSERT_EQ(save(8, -1).code, 0);
  EXPECT_EQ(losses(path("full")).size(), 8u);
  // A dataset that does not fit is not left half-written, and does not replace the old one.
  const std::string old = read_bytes(path("text.h5"));
  const Outcome dataset =
      weft({"tokenize", path("text.txt"), "-o", path("text.h5")}, {.most_file_bytes = 300});
  EXPECT_EQ(dataset.code, 1);
  EXPECT_TRUE(is_one_error_line(dataset.err)) << dataset.err;
  EXPECT_EQ(read_bytes(path("text.h5")), old);
}

TEST_F(BadInput, ThreadCountsAtTheirLimitsWork) {
  const auto train = [&](const char* run, const char* threads, const char* environment) {
    const Outcome outcome =
        weft(train_arguments(path("text.h5"), path(run), {"--threads", threads, "-q"}),
             {.environment = {{"OMP_NUM_THREADS", environment}}});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return losses(path(run));
  };
  const auto expected = train("threads-1", "1", "1");
  EXPECT_EQ(train("threads-0", "0", "1"), expected);
  EXPECT_EQ(train("threads-omp", "0", "2"), expected);
  EXPECT_EQ(train("threads-many", "300", "1"), expected);
  EXPECT_EQ(train("threads-nonsense", "0", "none"), expected);
}

TEST_F(BadInput, ATextOfTheSamplePromptCannotChangeTheRun) {
  const Outcome trained =
      weft(train_arguments(path("text.h5"), path("prompt"),
                           {"--sample-prompt", "a\nlr = 5\n\"", "--sample-every", "2", "-q"}));
  EXPECT_EQ(trained.code, 0) << trained.err;
  const Outcome scored = weft({"eval", "--run", path("prompt"), "--max-sequences", "1"});
  EXPECT_EQ(scored.code, 0) << scored.err;
}

}  // namespace
}  // namespace weft::apps
