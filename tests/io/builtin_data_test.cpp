#include "weft/io/builtin_data.h"

#include <map>
#include <set>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/io/loader.h"
#include "weft/tensor/error.h"

#include "temporary_folder.h"

namespace weft::io {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(Stories, ArePureFunctionsOfSeedAndNumber) {
  EXPECT_EQ(story(1, 5), story(1, 5));
  EXPECT_NE(story(1, 5), story(1, 6));
  EXPECT_NE(story(1, 5), story(2, 5));
  // Pinned: a changed generator would change the data of old runs.
  EXPECT_EQ(story(1, 2),
            "It was a cold day in winter when Grace and Anna came to the village. Anna hid the "
            "white basket "
            "at the harbour and told nobody. \"I am not afraid,\" said Anna. Nobody said a word. "
            "Anna had lost "
            "her way more than once. \"What a fine day,\" said Grace. Grace ran off to look around "
            "at the "
            "harbour. \"Please be careful,\" Grace whispered.\nWhat kind of basket is it? "
            "white\nWhere is the "
            "white basket? harbour\nWhere is Grace? harbour\n\n");
  EXPECT_EQ(recall_document(1, 3, {.pairs = 8}).text, "W%i[f}X+:f}X+W%i[\n");
  std::set<std::string> different;
  for (uint64_t i = 0; i < 2000; ++i) different.insert(story(3, i));
  EXPECT_EQ(different.size(), 2000u);
}

TEST(Stories, HaveTheirFormAndSize) {
  size_t questions = 0;
  for (uint64_t i = 0; i < 500; ++i) {
    const std::string text = story(9, i);
    EXPECT_GE(text.size(), 100u);
    EXPECT_TRUE(text.ends_with("\n\n")) << text;
    EXPECT_EQ(text.find("  "), std::string::npos) << text;
    EXPECT_EQ(text.find_first_of("#@*^~%&"), std::string::npos) << text;
    for (const char c : text) EXPECT_TRUE(c == '\n' || (c >= ' ' && c < 0x7F));
    for (const std::string& line : lines_of(text))
      questions += line.find("? ") != std::string::npos;
  }
  EXPECT_GT(questions, 700u);
}

/// Reads a story as a child would and checks the answer of every "Where is the ...?" whose last
/// mention before it says where the thing is.
TEST(Stories, AnswersAgreeWithTheLastStatement) {
  int checked = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    const std::string text = story(4, i);
    size_t start = 0;
    for (const std::string& line : lines_of(text)) {
      const std::string ask = "Where is the ";
      if (line.starts_with(ask)) {
        const size_t mark = line.find("? ");
        const std::string thing = line.substr(ask.size(), mark - ask.size());
        const std::string answer = line.substr(mark + 2);
        const std::string before = text.substr(0, start);
        // The last sentence that names the thing and is no question also names the place.
        size_t last = before.rfind(thing);
        while (last != std::string::npos && before[last + thing.size()] == '?')
          last = before.rfind(thing, last - 1);
        ASSERT_NE(last, std::string::npos);
        const std::string sentence = before.substr(last, before.find_first_of(".\n", last) - last);
        EXPECT_THAT(sentence, HasSubstr("the " + answer)) << text;
        ++checked;
      }
      start += line.size() + 1;
    }
  }
  EXPECT_GT(checked, 300);
}

TEST(Stories, SourceGivesIndependentSequencesOfAnyLength) {
  const BuiltinData data = make_builtin("builtin:stories", 7);
  EXPECT_EQ(data.train->size(), kEndless);
  EXPECT_EQ(data.train->vocab_size(), data.tokenizer->vocab_size());
  for (const size_t length : {1, 15, 256, 5000}) {
    std::vector<int32_t> inputs(length);
    std::vector<int32_t> targets(length);
    data.train->read(3, inputs, targets);
    EXPECT_TRUE(std::equal(inputs.begin() + 1, inputs.end(), targets.begin()));
    std::vector<int32_t> longer(length + 1);
    std::vector<int32_t> rest(length + 1);
    data.train->read(3, longer, rest);
    EXPECT_TRUE(std::equal(inputs.begin(), inputs.end(), longer.begin()));
    EXPECT_EQ(targets.back(), longer.back());
  }
  std::vector<int32_t> some(64);
  std::vector<int32_t> targets(64);
  std::set<std::vector<int32_t>> different;
  for (int64_t k = 0; k < 100; ++k) {
    data.train->read(k, some, targets);
    different.insert(some);
    data.valid->read(k, some, targets);
    different.insert(some);
  }
  EXPECT_EQ(different.size(), 200u);
  EXPECT_THROW(data.train->read(-1, some, targets), IndexError);
}

TEST(BuiltinData, HeldOutDataDoesNotDependOnTheSeed) {
  for (const char* name : {"builtin:stories", "builtin:recall", "builtin:needle"}) {
    const BuiltinData a = make_builtin(name, 1);
    const BuiltinData b = make_builtin(name, 2);
    std::vector<int32_t> x(100), y(100), targets(100);
    a.valid->read(5, x, targets);
    b.valid->read(5, y, targets);
    EXPECT_EQ(x, y);
    a.train->read(5, x, targets);
    b.train->read(5, y, targets);
    EXPECT_NE(x, y);
  }
}

TEST(Recall, EveryQueriedKeyIsFollowedByItsValue) {
  for (const int64_t most : {1, 2, 7, 16, 52}) {
    std::set<size_t> sizes;
    for (uint64_t i = 0; i < 200; ++i) {
      const RecallDocument document = recall_document(3, i, {.pairs = most});
      const std::string& text = document.text;
      ASSERT_EQ(text.size(), document.is_answer.size());
      const size_t middle = text.find(':');
      ASSERT_NE(middle, std::string::npos);
      const size_t pairs = middle / 2;
      EXPECT_GE(2 * pairs, static_cast<size_t>(most));
      EXPECT_LE(pairs, static_cast<size_t>(most));
      sizes.insert(pairs);
      EXPECT_EQ(text.size(), 4 * pairs + 2);
      EXPECT_EQ(text.back(), '\n');
      std::map<char, char> values;
      for (size_t p = 0; p < pairs; ++p) values[text[2 * p]] = text[2 * p + 1];
      EXPECT_EQ(values.size(), pairs);
      std::set<char> queried;
      for (size_t p = 0; p < pairs; ++p) {
        const char key = text[middle + 1 + 2 * p];
        EXPECT_EQ(text[middle + 2 + 2 * p], values.at(key));
        EXPECT_EQ(document.is_answer[middle + 1 + 2 * p], '0');
        EXPECT_EQ(document.is_answer[middle + 2 + 2 * p], '1');
        queried.insert(key);
      }
      EXPECT_EQ(queried.size(), pairs);
      EXPECT_EQ(document.is_answer.substr(0, middle + 1), std::string(middle + 1, '0'));
      EXPECT_EQ(document.is_answer.back(), '0');
      EXPECT_EQ(recall_document(3, i, {.pairs = most}).text, text);
    }
    EXPECT_GE(sizes.size(), static_cast<size_t>(most / 2));
  }
  EXPECT_THROW(recall_document(1, 1, {.pairs = 0}), ConfigError);
  EXPECT_THROW(recall_document(1, 1, {.pairs = 53}), ConfigError);
}

TEST(Recall, OnlyAnswersAreTargets) {
  const BuiltinData data = make_builtin("builtin:recall", 7);
  Loader loader(data.train, {.batch_size = 4, .seq_len = 128});
  for (int step = 0; step < 20; ++step) {
    const Batch batch = loader.next();
    const auto inputs = batch.inputs.to_vector<int32_t>();
    const auto targets = batch.targets.to_vector<int32_t>();
    EXPECT_GT(batch.scored, 4 * 8);
    for (size_t row = 0; row < 4; ++row) {
      std::map<int32_t, int32_t> values;
      for (size_t t = row * 128; t < (row + 1) * 128; ++t) {
        const auto token = data.tokenizer->token_bytes(inputs[t]);
        if (token == "\n") values.clear();
        if (targets[t] != kIgnoreIndex) {
          ASSERT_TRUE(values.contains(inputs[t]));
          EXPECT_EQ(targets[t], values[inputs[t]]);
        } else if (std::isalpha(static_cast<unsigned char>(token[0])) && t % 128 < 127) {
          values[inputs[t]] = inputs[t + 1];
        }
      }
    }
  }
}

TEST(Recall, ShortSequencesGetFewerPairsAndTooShortOnesAreRefused) {
  const BuiltinData data = make_builtin("recall:pairs=40", 1);
  for (const size_t length : {5, 6, 9, 33, 161, 400}) {
    std::vector<int32_t> inputs(length);
    std::vector<int32_t> targets(length);
    data.train->read(0, inputs, targets);
    EXPECT_TRUE(std::any_of(targets.begin(), targets.end(), [](int32_t t) { return t >= 0; }));
  }
  std::vector<int32_t> inputs(4);
  std::vector<int32_t> targets(4);
  EXPECT_THAT(error_of<ConfigError>([&] { data.train->read(0, inputs, targets); }),
              HasSubstr("at least 5 tokens, got 4"));
}

TEST(BuiltinData, BadNamesAndOptionsAreRefused) {
  EXPECT_TRUE(is_builtin("builtin:x"));
  EXPECT_FALSE(is_builtin("stories"));
  EXPECT_EQ(builtin_data().size(), 3u);
  EXPECT_THAT(error_of<ConfigError>([] { make_builtin("builtin:novel", 1); }),
              HasSubstr("known are builtin:stories builtin:recall builtin:needle"));
  EXPECT_THAT(error_of<ConfigError>([] { make_builtin("builtin:stories:a=1", 1); }),
              HasSubstr("unknown option 'a'; known: none"));
  EXPECT_THAT(error_of<ConfigError>([] { make_builtin("builtin:recall:key=1", 1); }),
              HasSubstr("unknown option 'key'; known: pairs=16, gap=0, spread=0, easy=0, keys=52"));
  for (const char* bad :
       {"pairs", "pairs=", "pairs=x", "pairs=0", "pairs=53,keys=52", "pairs=1x"}) {
    EXPECT_THROW(make_builtin(std::string("builtin:recall:") + bad, 1), ConfigError) << bad;
  }
}

}  // namespace
}  // namespace weft::io
