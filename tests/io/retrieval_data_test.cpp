#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/io/builtin_data.h"
#include "weft/io/loader.h"
#include "weft/tensor/error.h"

#include "temporary_folder.h"

namespace weft::io {
namespace {

using ::testing::HasSubstr;

bool is_letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0;
}

TEST(RecallFiller, StandsAmongThePairsAndBeforeTheQueries) {
  std::set<size_t> first_places;
  for (uint64_t i = 0; i < 100; ++i) {
    const RecallDocument document =
        recall_document(5, i, {.pairs = 6, .gap = 40, .spread = 30, .exact = true});
    const std::string& text = document.text;
    ASSERT_EQ(document.length(), recall_length(6, 70));
    const size_t mark = text.size() - 2 * 6 - 2;
    ASSERT_EQ(text[mark], ':');
    std::map<char, char> values;
    for (size_t at = 0; at < mark; ++at) {
      if (is_letter(text[at])) values[text[at]] = text[at + 1];
    }
    ASSERT_EQ(values.size(), 6u);
    for (size_t at = mark - 40; at < mark; ++at) EXPECT_FALSE(is_letter(text[at])) << text;
    EXPECT_FALSE(is_letter(text[mark - 42]) && is_letter(text[mark - 41]));
    for (size_t at = mark + 1; at + 1 < text.size(); at += 2) {
      EXPECT_EQ(values.at(text[at]), text[at + 1]);
      EXPECT_EQ(document.is_answer.substr(at, 2), "01");
    }
    first_places.insert(
        static_cast<size_t>(std::find_if(text.begin(), text.end(), is_letter) - text.begin()));
  }
  EXPECT_GT(first_places.size(), 8u) << "filler is spread at random";
}

TEST(RecallFiller, FillsASequenceWithOneDocument) {
  const BuiltinData data = make_builtin("builtin:recall:pairs=8,gap=64,spread=-1", 3);
  for (const size_t length : {100, 255, 1000}) {
    std::vector<int32_t> inputs(length);
    std::vector<int32_t> targets(length);
    data.train->read(1, inputs, targets);
    const auto is_scored = [](int32_t target) { return target != kIgnoreIndex; };
    const auto first = std::find_if(targets.begin(), targets.end(), is_scored);
    const auto scored = std::count_if(targets.begin(), targets.end(), is_scored);
    EXPECT_GE(scored, 4);
    EXPECT_LE(scored, 8);
    // All queries at the end: each answer two places behind the one before, then a line feed.
    EXPECT_EQ(targets.end() - first, 2 * scored);
  }
}

TEST(RecallFiller, IsLeftOutOfEasySequences) {
  const BuiltinData data = make_builtin("builtin:recall:pairs=8,gap=64,spread=-1,easy=30", 3);
  std::vector<int32_t> inputs(200);
  std::vector<int32_t> targets(200);
  const auto count_easy = [&](const TokenSource& source) {
    int easy = 0;
    for (int64_t k = 0; k < 200; ++k) {
      source.read(k, inputs, targets);
      // Only without filler is there room for more documents.
      const auto scored = std::count_if(targets.begin(), targets.end(),
                                        [](int32_t target) { return target != kIgnoreIndex; });
      easy += scored > 8;
    }
    return easy;
  };
  EXPECT_NEAR(count_easy(*data.train), 60, 20);
  EXPECT_EQ(count_easy(*data.valid), 0);
}

TEST(RecallKeys, MayBeMoreThanTheLetters) {
  const RecallDocument document = recall_document(1, 1, {.pairs = 300, .keys = 400, .exact = true});
  EXPECT_EQ(document.length(), recall_length(300));
  const auto tokenizer = make_builtin("builtin:recall:pairs=300,keys=400", 1).tokenizer;
  const std::vector<int32_t> ids = tokenizer->encode(document.text);
  ASSERT_EQ(static_cast<int64_t>(ids.size()), document.length());
  EXPECT_EQ(tokenizer->vocab_size(), 400 + kRecallValues + 2);
  std::map<int32_t, int32_t> values;
  for (size_t i = 0; i < 300; ++i) values[ids[2 * i]] = ids[2 * i + 1];
  EXPECT_EQ(values.size(), 300u);
  for (size_t i = 601; i + 1 < ids.size(); i += 2) EXPECT_EQ(values.at(ids[i]), ids[i + 1]);
  EXPECT_EQ(make_builtin("builtin:recall:pairs=100", 1).tokenizer->vocab_size(),
            100 + kRecallValues + 2);
}

TEST(Needle, IsPinnedAndPure) {
  const NeedleOptions options{.depth = 50};
  const NeedleDocument document = needle_document(1, 2, 160, options);
  EXPECT_EQ(document.text, needle_document(1, 2, 160, options).text);
  EXPECT_NE(document.text, needle_document(1, 3, 160, options).text);
  EXPECT_NE(document.text, needle_document(2, 2, 160, options).text);
  EXPECT_EQ(document.text,
            "he quiet table. The red tower looks like the bright river. The key of Emma is 71807. "
            "The narrow bird was seen beside the heavy field. \nThe key of Emma is 71807\n");
}

/// The words before an answer are those of its key, and no other place of the text has its number.
TEST(Needle, AnswersAreTheHiddenNumbers) {
  for (const NeedleOptions& options :
       {NeedleOptions{}, NeedleOptions{.digits = 1}, NeedleOptions{.digits = 9, .keys = 5},
        NeedleOptions{.digits = 4, .keys = 16, .asked = 2, .depth = 10}}) {
    const int64_t shortest = shortest_needle_document(options);
    for (const int64_t length : {shortest, shortest + 1, shortest + 100, shortest + 2000}) {
      for (uint64_t i = 0; i < 20; ++i) {
        const NeedleDocument document = needle_document(7, i, length, options);
        const std::string& text = document.text;
        ASSERT_EQ(static_cast<int64_t>(text.size()), length);
        ASSERT_EQ(document.is_answer.size(), text.size());
        EXPECT_EQ(text.back(), '\n');
        int64_t asked = 0;
        for (size_t at = 0; (at = document.is_answer.find('1', at)) != std::string::npos;) {
          const size_t end = document.is_answer.find('0', at);
          EXPECT_EQ(end - at, static_cast<size_t>(options.digits));
          const size_t line = text.rfind('\n', at) + 1;
          const std::string hidden = text.substr(line, end - line) + ". ";
          EXPECT_LT(text.find(hidden), line) << text;
          ++asked;
          at = end;
        }
        EXPECT_EQ(asked, options.asked > 0 ? options.asked : options.keys);
        // As many numbers as keys and questions.
        int64_t numbers = 0;
        for (size_t at = 0; at < text.size(); ++at) {
          const auto digit = [&](size_t p) { return text[p] >= '0' && text[p] <= '9'; };
          numbers += digit(at) && !digit(at - 1);
        }
        EXPECT_EQ(numbers, options.keys + asked);
      }
    }
  }
}

TEST(Needle, LiesWhereItIsWanted) {
  constexpr int64_t kLength = 4000;
  for (const double depth : {0.0, 25.0, 50.0, 99.0, 100.0}) {
    for (uint64_t i = 0; i < 20; ++i) {
      const NeedleDocument document = needle_document(3, i, kLength, {.depth = depth});
      const size_t place = document.text.find("The key of ");
      const auto room = static_cast<double>(kLength - shortest_needle_document({}));
      EXPECT_NEAR(static_cast<double>(place), depth / 100 * room, 40) << depth;
    }
  }
  std::set<size_t> places;
  for (uint64_t i = 0; i < 50; ++i)
    places.insert(needle_document(3, i, kLength, {}).text.find("The key of "));
  EXPECT_GT(places.size(), 25u);
}

TEST(Needle, OnlyDigitsAreTargets) {
  const BuiltinData data = make_builtin("builtin:needle:keys=2,digits=3", 7);
  EXPECT_EQ(data.train->size(), kEndless);
  Loader loader(data.train, {.batch_size = 4, .seq_len = 200});
  for (int step = 0; step < 5; ++step) {
    const Batch batch = loader.next();
    // At least one document a row, each of two keys of three digits.
    EXPECT_GE(batch.scored, 4 * 2 * 3);
    EXPECT_EQ(batch.scored % (2 * 3), 0);
    for (const int32_t target : batch.targets.to_vector<int32_t>())
      EXPECT_TRUE(target == kIgnoreIndex || (target >= '0' && target <= '9'));
  }
}

TEST(Needle, DocumentsHaveAnyLengthOrTheGivenOne) {
  std::vector<int32_t> inputs(999);
  std::vector<int32_t> targets(999);
  const auto last_answer = [&] {
    int64_t first_run = 0;
    for (size_t i = 0; i + 1 < targets.size(); ++i) {
      if (targets[i] != kIgnoreIndex && targets[i + 1] == kIgnoreIndex) {
        first_run = static_cast<int64_t>(i);
        break;
      }
    }
    return first_run;  // the end of the first document is two places on
  };
  const BuiltinData any = make_builtin("builtin:needle", 7);
  std::set<int64_t> lengths;
  int64_t longest = 0;
  for (int64_t k = 0; k < 100; ++k) {
    any.train->read(k, inputs, targets);
    lengths.insert(last_answer());
    longest = std::max(longest, last_answer());
  }
  EXPECT_GT(lengths.size(), 80u);
  EXPECT_GT(longest, 850);
  const BuiltinData given = make_builtin("builtin:needle:length=300", 7);
  given.train->read(3, inputs, targets);
  EXPECT_EQ(last_answer(), 300 - 3);
  EXPECT_EQ(std::count_if(targets.begin(), targets.end(),
                          [](int32_t target) { return target != kIgnoreIndex; }),
            3 * 5);
}

TEST(RetrievalData, OptionsAreParsedAndChecked) {
  const RecallOptions recall = parse_recall_options("builtin:recall:pairs=60,gap=7,spread=-1");
  EXPECT_EQ(recall.pairs, 60);
  EXPECT_EQ(recall.keys, 60);
  EXPECT_EQ(recall.gap, 7);
  EXPECT_EQ(recall.spread, -1);
  EXPECT_EQ(parse_recall_options("builtin:recall").pairs, 16);
  const NeedleOptions needle = parse_needle_options("builtin:needle:digits=3,keys=4,asked=2");
  EXPECT_EQ(needle.digits, 3);
  EXPECT_EQ(needle.keys, 4);
  EXPECT_EQ(needle.asked, 2);
  EXPECT_EQ(builtin_name("builtin:recall:pairs=3"), "recall");
  EXPECT_EQ(builtin_name("recall.txt"), "");
  struct Mistake {
    const char* data;
    const char* says;
  };
  for (const Mistake& mistake : std::vector<Mistake>{
           {"builtin:recall:gap=-1", "gap must be 0 to"},
           {"builtin:recall:spread=-2", "or -1 to fill the sequence, got -2"},
           {"builtin:recall:easy=101", "easy must be 0 to 100"},
           {"builtin:recall:keys=8193", "keys must be 1 to 8192, got 8193"},
           {"builtin:recall:pairs=9,keys=8", "pairs must be 1 to 8 (the number of keys), got 9"},
           {"builtin:needle:digits=0", "digits must be 1 to 16, got 0"},
           {"builtin:needle:keys=17", "keys must be 1 to 16, got 17"},
           {"builtin:needle:asked=2", "asked must be 1 to 1"},
           {"builtin:needle:depth=101", "depth must be 0 to 100"},
           {"builtin:needle:length=51", "length must be 0 (any) or at least 52, got 51"},
           {"builtin:needle:dept=1", "unknown option 'dept'; known: digits=5"}}) {
    EXPECT_THAT(error_of<ConfigError>([&] { make_builtin(mistake.data, 1); }),
                HasSubstr(mistake.says));
  }
  std::vector<int32_t> inputs(50);
  std::vector<int32_t> targets(50);
  EXPECT_THAT(error_of<ConfigError>(
                  [&] { make_builtin("builtin:needle", 1).train->read(0, inputs, targets); }),
              HasSubstr("at least 51 tokens, got 50"));
  EXPECT_THAT(error_of<ConfigError>([&] {
                make_builtin("builtin:recall:gap=60", 1).train->read(0, inputs, targets);
              }),
              HasSubstr("at least 65 tokens, got 50"));
  EXPECT_THAT(error_of<ConfigError>([] { needle_document(1, 1, 51, {}); }),
              HasSubstr("at least 52 characters, got 51"));
}

}  // namespace
}  // namespace weft::io
