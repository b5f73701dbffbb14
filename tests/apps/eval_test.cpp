#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/io/builtin_data.h"
#include "weft/nn/generation.h"
#include "weft/tensor/error.h"

#include "common/retrieval.h"
#include "common/run.h"
#include "weft_process.h"

namespace weft::apps {
namespace {

using testing::HasSubstr;

/// A run that has learned to recall two pairs, and one that has learned nothing of needles.
class RetrievalRuns : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    const Outcome recall = weft({"train",
                                 "--data",
                                 "builtin:recall:pairs=2",
                                 "--out-dir",
                                 path("recall"),
                                 "--seq-len",
                                 "40",
                                 "--batch-size",
                                 "32",
                                 "--n-layers",
                                 "2",
                                 "--d-model",
                                 "32",
                                 "--n-heads",
                                 "2",
                                 "--max-steps",
                                 "300",
                                 "--lr",
                                 "2e-2",
                                 "--optimizer",
                                 "muon",
                                 "--eval-every",
                                 "-1",
                                 "--save-every",
                                 "-1",
                                 "--report-to",
                                 "none",
                                 "-q"});
    ASSERT_EQ(recall.code, 0) << recall.err;
    const Outcome needle = weft(train_arguments("builtin:needle:digits=2,keys=2", path("needle"),
                                                {"--seq-len", "160", "-q"}));
    ASSERT_EQ(needle.code, 0) << needle.err;
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static std::string path(const std::string& name) { return (*folder_ / name).string(); }

  static TemporaryFolder* folder_;
};

TemporaryFolder* RetrievalRuns::folder_ = nullptr;

TEST_F(RetrievalRuns, RecallIsLearnedAndMeasured) {
  const auto result =
      parse_json(weft({"eval", "--run", path("recall"), "--suite", "recall", "--format", "json"}));
  EXPECT_EQ(result.at("suite"), "recall");
  ASSERT_EQ(result.at("cells").size(), 2u);
  EXPECT_EQ(result.at("cells")[0].at("pairs"), 1);
  EXPECT_EQ(result.at("cells")[1].at("pairs"), 2);
  EXPECT_EQ(result.at("cells")[1].at("length"), 10);
  EXPECT_EQ(result.at("cells")[1].at("answers"), 64);
  EXPECT_GT(result.at("cells")[1].at("accuracy").get<double>(), 0.3);
  EXPECT_EQ(result.at("step"), 300);

  // Other documents, and the limit.
  const Outcome other = weft({"eval", "--run", path("recall"), "--suite", "recall", "--seed", "4",
                              "--format", "json", "--documents", "7", "--pairs", "2"});
  EXPECT_EQ(parse_json(other).at("cells")[0].at("answers"), 14);
  const Outcome limit = weft({"eval", "--run", path("recall"), "--suite", "recall", "--pairs", "40",
                              "--lengths", "300", "--min-accuracy", "0.9"});
  EXPECT_EQ(limit.code, 3);
  EXPECT_TRUE(is_one_error_line(limit.err)) << limit.err;
  EXPECT_THAT(limit.err, HasSubstr("--min-accuracy"));
}

TEST_F(RetrievalRuns, CellsThatDoNotFitAreLeftOut) {
  const Outcome text = weft({"eval", "--run", path("recall"), "--suite", "recall", "--pairs",
                             "2,10", "--lengths", "10,60"});
  ASSERT_EQ(text.code, 0) << text.err;
  EXPECT_THAT(text.out, testing::ContainsRegex("\n10 +- +[0-9.]+%\n"));
  EXPECT_THAT(text.out, testing::ContainsRegex("\n2 +[0-9.]+% +[0-9.]+%\n"));
}

TEST_F(RetrievalRuns, NeedleIsAGridOfDepthAndLength) {
  const Arguments command = {"eval",        "--run", path("needle"), "--suite", "needle",
                             "--documents", "3"};
  const auto with = [&](const Arguments& more) {
    Arguments arguments = command;
    arguments.insert(arguments.end(), more.begin(), more.end());
    return weft(arguments);
  };
  const auto result = parse_json(with({"--format", "json"}));
  // A quarter of 161 is too short for two keys of two digits.
  ASSERT_EQ(result.at("cells").size(), 10u);
  EXPECT_EQ(result.at("cells")[0].at("length"), 80);
  EXPECT_EQ(result.at("cells")[9].at("length"), 161);
  EXPECT_EQ(result.at("cells")[9].at("depth"), 100.0);
  const Outcome csv =
      with({"--format", "csv", "--lengths", "120", "--depths", "10,90.5", "--digits", "3"});
  EXPECT_THAT(csv.out, testing::StartsWith("suite,length,depth,accuracy,digit_accuracy,"));
  EXPECT_THAT(csv.out, HasSubstr("\nneedle,120,90.5,"));
  EXPECT_EQ(std::count(csv.out.begin(), csv.out.end(), '\n'), 3);
}

TEST_F(RetrievalRuns, SeveralSuitesAreAnArray) {
  const auto results =
      parse_json(weft({"eval", "--run", path("recall"), "--suite", "loss,recall", "--max-sequences",
                       "2", "--documents", "2", "--format", "json"}));
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[0].at("suite"), "loss");
  EXPECT_EQ(results[1].at("suite"), "recall");
}

TEST_F(RetrievalRuns, RefusesWhatARunCannotExpress) {
  struct Mistake {
    Arguments flags;
    const char* says;
  };
  for (const Mistake& mistake :
       std::vector<Mistake>{{{"--suite", "needle", "--lengths", "100"},
                             "--suite needle does not fit a run with this char tokenizer"},
                            {{"--suite", "recall", "--pairs", "60"}, "--suite recall does not fit"},
                            {{"--suite", "recall", "--pairs", "x"}, "--pairs: 'x'"},
                            {{"--suite", "recall", "--pairs", "0"}, "--pairs: 0 is out of range"},
                            {{"--suite", "recall", "--lengths", "5"}, "the shortest takes 6"},
                            {{"--suite", "needle", "--depths", "101"}, "'101' is no percentage"},
                            {{"--suite", "needle", "--depths", ""}, "--depths names nothing"},
                            {{"--suite", ""}, "--suite names nothing"},
                            {{"--suite", "recal"}, "allowed are loss, recall, needle"},
                            {{"--suite", "recall", "--documents", "0"}, "--documents: 0"},
                            {{"--suite", "recall", "--min-accuracy", "2"}, "--min-accuracy: 2"}}) {
    Arguments arguments = {"eval", "--run", path("recall"), "-q"};
    arguments.insert(arguments.end(), mistake.flags.begin(), mistake.flags.end());
    const Outcome outcome = weft(arguments);
    EXPECT_EQ(outcome.code, 2) << mistake.says;
    EXPECT_TRUE(is_one_error_line(outcome.err)) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(mistake.says));
    EXPECT_EQ(outcome.out, "");
  }
  const Outcome short_needle =
      weft({"eval", "--run", path("needle"), "--suite", "needle", "--lengths", "40", "-q"});
  EXPECT_EQ(short_needle.code, 2);
  EXPECT_THAT(short_needle.err, HasSubstr("at least 69 characters, got 40"));
}

/// What stands in retrieval.h: one pass finds what greedy generation with the cache writes.
TEST_F(RetrievalRuns, SolvedMeansThatGreedyGenerationAnswers) {
  Console::Settings quiet;
  quiet.quiet = true;
  Console console(quiet);
  LoadedRun run = load_run(path("recall"), kCpu, console);
  int64_t solved = 0;
  std::vector<ScoredDocument> documents;
  for (uint64_t i = 0; i < 40; ++i) {
    // Three pairs, one more than the run has learned, so that some are wrong.
    const io::RecallDocument made = io::recall_document(11, i, {.pairs = 3, .exact = true});
    ScoredDocument document = encode_scored("recall", made.text, made.is_answer, *run.tokenizer);
    document.answers = {document.answers.front()};
    const std::vector<int64_t> prompt(document.ids.begin(),
                                      document.ids.begin() + document.answers[0]);
    Generator generator(0);
    const auto written = nn::generate(
        *run.model, prompt, {.max_new_tokens = 1, .sampling = {.temperature = 0}}, generator);
    solved += written.at(0) == document.ids[document.answers[0]];
    documents.push_back(std::move(document));
  }
  for (const int64_t batch_size : {1, 7, 64}) {
    const AnswerScore score = score_answers(*run.model, documents, batch_size);
    EXPECT_EQ(score.solved, solved);
    EXPECT_EQ(score.documents, 40);
    EXPECT_EQ(score.answers, 40);
  }
  EXPECT_GT(solved, 0);
  EXPECT_LT(solved, 40);
}

TEST(EncodeScored, KeepsAnswersApartAndStopsBehindTheLast) {
  const auto bytes = io::make_tokenizer("bytes");
  const ScoredDocument document = encode_scored("x", "ab12c3\n", "0011010", *bytes);
  EXPECT_EQ(document.ids, std::vector<int32_t>({'a', 'b', '1', '2', 'c', '3'}));
  EXPECT_EQ(document.answers, std::vector<size_t>({2, 3, 5}));
  const ScoredDocument wide = encode_scored("x", "\xE4\xB8\x80=1", "001", *bytes);
  EXPECT_EQ(wide.ids.size(), 5u);
  EXPECT_EQ(wide.answers, std::vector<size_t>({4}));
  EXPECT_THROW(encode_scored("x", "abc", "000", *bytes), ConfigError);
}

}  // namespace
}  // namespace weft::apps
