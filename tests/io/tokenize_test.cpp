#include "weft/io/tokenize.h"

#include <set>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/io/builtin_data.h"
#include "weft/io/token_dataset.h"
#include "weft/tensor/error.h"

#include "temporary_folder.h"

namespace weft::io {
namespace {

using ::testing::HasSubstr;

std::string text_of(const Tokenizer& tokenizer, const TextSource& source) {
  return tokenizer.decode(source.slice(0, source.size()));
}

std::string many_stories(uint64_t count) {
  std::string text;
  for (uint64_t i = 0; i < count; ++i) text += story(1, i);
  return text;
}

TEST(Tokenize, PlainTextKeepsEveryByteAndHoldsOutTheTail) {
  const TemporaryFolder folder;
  const std::string text = many_stories(3000);  // more than one piece of reading
  ASSERT_GT(text.size(), size_t{2} << 20);
  write_bytes(folder / "a.txt", text);
  for (const std::string spec : {"bytes", "char"}) {
    for (const double fraction : {0.05, 0.5, 0.0, 0.001}) {
      const TokenizeOptions options{
          .inputs = {folder / "a.txt"}, .tokenizer = spec, .valid_fraction = fraction};
      const TokenizedText memory = tokenize_to_memory(options);
      const Tokenizer& tokenizer = *memory.summary.tokenizer;
      const std::string train = text_of(tokenizer, *memory.train);
      const std::string valid = text_of(tokenizer, *memory.valid);
      EXPECT_EQ(train + valid, text);
      const double share = static_cast<double>(valid.size()) / static_cast<double>(text.size());
      EXPECT_NEAR(share, fraction, 0.0005);
      EXPECT_LE(share, fraction);
      if (fraction > 0) {
        EXPECT_EQ(train.back(), '\n');
      }
      EXPECT_EQ(memory.summary.bytes, static_cast<int64_t>(text.size()));
      EXPECT_EQ(memory.summary.documents, 1);
      EXPECT_FALSE(memory.summary.split_by_document);
      const TokenizeSummary summary = tokenize_to_dataset(options, folder / "data.h5");
      const TokenDataset data(folder / "data.h5");
      EXPECT_EQ(data.tokenizer()->hash(), tokenizer.hash());
      EXPECT_EQ(summary.train_tokens, data.train()->size());
      EXPECT_EQ(summary.valid_tokens, data.valid()->size());
      EXPECT_EQ(text_of(tokenizer, *data.train()), train);
      EXPECT_EQ(text_of(tokenizer, *data.valid()), valid);
      EXPECT_EQ(tokenizer.count_bytes(data.valid()->slice(0, data.valid()->size())),
                static_cast<int64_t>(valid.size()));
    }
  }
}

TEST(Tokenize, SameTextGivesTheSameFile) {
  const TemporaryFolder folder;
  write_bytes(folder / "a.txt", many_stories(50));
  const TokenizeOptions options{.inputs = {folder / "a.txt"}, .tokenizer = "char"};
  tokenize_to_dataset(options, folder / "1.h5");
  tokenize_to_dataset(options, folder / "2.h5");
  EXPECT_EQ(read_bytes(folder / "1.h5"), read_bytes(folder / "2.h5"));
}

TEST(Tokenize, TheCutFallsBetweenCharacters) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += i % 2 == 0 ? "\xF0\x9F\xA7\xB6" : "\xC3\xA9";
  write_bytes(folder / "a.txt", text);
  for (int cut = 1; cut < 40; ++cut) {
    const TokenizedText data = tokenize_to_memory(
        {.inputs = {folder / "a.txt"}, .tokenizer = "char", .valid_fraction = cut / 100.0});
    EXPECT_EQ(data.summary.train_tokens + data.summary.valid_tokens, 1000);
    EXPECT_EQ(data.summary.tokenizer->vocab_size(), 2);
  }
}

TEST(Tokenize, SeveralFilesAreJoinedWithTheSeparator) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "d");
  write_bytes(folder / "d/1.txt", "first");
  write_bytes(folder / "d/2.txt", "");
  write_bytes(folder / "d/3.txt", "second\n");
  write_bytes(folder / "d/4.jsonl", "{\"text\": \"third\"}\n{\"text\": \"fourth\"}\n");
  for (const std::string spec : {"bytes", "char"}) {
    const TokenizedText data = tokenize_to_memory(
        {.inputs = {folder / "d"}, .tokenizer = spec, .valid_fraction = 0, .separator = "|"});
    EXPECT_EQ(text_of(*data.summary.tokenizer, *data.train), "first|second\n|third|fourth");
    EXPECT_EQ(data.summary.documents, 4);
    EXPECT_EQ(data.summary.bytes, 23);
  }
}

TEST(Tokenize, JsonLinesAreSplitByDocument) {
  const TemporaryFolder folder;
  std::ostringstream lines;
  for (int i = 0; i < 400; ++i)
    lines << "{\"text\": \"<" << i << std::string(static_cast<size_t>(i * 37 % 50), 'x')
          << ">\"}\n";
  write_bytes(folder / "a.jsonl", lines.str());
  const TokenizeOptions options{
      .inputs = {folder / "a.jsonl"}, .valid_fraction = 0.1, .separator = "\n"};
  const TokenizedText data = tokenize_to_memory(options);
  EXPECT_TRUE(data.summary.split_by_document);
  std::set<int> numbers;
  for (const TextSource* split : {data.train.get(), data.valid.get()}) {
    std::istringstream text(text_of(*data.summary.tokenizer, *split));
    for (std::string line; std::getline(text, line);) {
      EXPECT_TRUE(line.starts_with('<') && line.ends_with('>')) << line;  // whole documents
      EXPECT_TRUE(numbers.insert(std::stoi(line.substr(1))).second);
    }
  }
  EXPECT_EQ(numbers.size(), 400u);
  EXPECT_NEAR(static_cast<double>(data.valid->size()) /
                  static_cast<double>(data.train->size() + data.valid->size()),
              0.1, 0.01);
  // Too few documents for that: the tail of the joined text.
  write_bytes(folder / "b.jsonl", "{\"text\": \"0123456789\"}\n{\"text\": \"0123456789\"}\n");
  const TokenizedText few =
      tokenize_to_memory({.inputs = {folder / "b.jsonl"}, .valid_fraction = 0.25, .separator = ""});
  EXPECT_FALSE(few.summary.split_by_document);
  EXPECT_EQ(few.valid->size(), 5);
}

TEST(Tokenize, BadTextIsNamedWithFileLineAndByte) {
  const TemporaryFolder folder;
  write_bytes(folder / "good.txt", "good text\n");
  const std::string bad = std::string(2'000'000, 'a') + "\xC3(";
  write_bytes(folder / "bad.txt", bad);
  const auto inputs = std::vector<std::filesystem::path>{folder / "good.txt", folder / "bad.txt"};
  EXPECT_THAT(
      error_of<IoError>([&] { tokenize_to_memory({.inputs = inputs, .tokenizer = "char"}); }),
      HasSubstr("bad.txt': invalid UTF-8 at byte 2000000"));
  const TokenizedText kept = tokenize_to_memory({.inputs = inputs});
  EXPECT_EQ(kept.summary.bytes, 10 + 2'000'002);
  // A given tokenizer that lacks a character.
  write_bytes(folder / "abc.json", make_char_tokenizer("abc\n")->to_json());
  write_bytes(folder / "a.jsonl", "{\"text\": \"abc\"}\n{\"text\": \"abd\"}\n");
  EXPECT_THAT(error_of<IoError>([&] {
                tokenize_to_dataset(
                    {.inputs = {folder / "a.jsonl"}, .tokenizer = (folder / "abc.json").string()},
                    folder / "data.h5");
              }),
              HasSubstr("a.jsonl' line 2: tokenizer 'char': character U+0064 'd' at byte 2"));
  EXPECT_FALSE(std::filesystem::exists(folder / "data.h5"));
  EXPECT_EQ(count_entries(folder.path()), 4);
}

TEST(Tokenize, EmptyAndShortTextsAndBadOptionsAreRefused) {
  const TemporaryFolder folder;
  write_bytes(folder / "empty.txt", "");
  write_bytes(folder / "short.txt", "abc");
  for (const std::string spec : {"bytes", "char"}) {
    EXPECT_THAT(error_of<IoError>([&] {
                  tokenize_to_memory({.inputs = {folder / "empty.txt"}, .tokenizer = spec});
                }),
                HasSubstr("there is no text in '" + (folder / "empty.txt").string() + "'"));
  }
  EXPECT_THAT(error_of<IoError>([&] { tokenize_to_memory({.inputs = {folder / "short.txt"}}); }),
              HasSubstr("too short: its 3 bytes give 3 tokens to train on and 0 held out"));
  EXPECT_EQ(
      tokenize_to_memory({.inputs = {folder / "short.txt"}, .valid_fraction = 0}).train->size(), 3);
  EXPECT_THROW(tokenize_to_memory({}), ConfigError);
  for (const double fraction : {-0.1, 1.0, 2.0, std::nan("")}) {
    EXPECT_THROW(tokenize_to_memory({.inputs = {folder / "short.txt"}, .valid_fraction = fraction}),
                 ConfigError);
  }
  EXPECT_THROW(tokenize_to_memory({.inputs = {folder / "short.txt"}, .tokenizer = "word"}),
               ConfigError);
  EXPECT_THROW(tokenize_to_memory({.inputs = {folder / "none.txt"}}), IoError);
}

}  // namespace
}  // namespace weft::io
