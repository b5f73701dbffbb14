#include "weft/io/tokenizer.h"

#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "temporary_folder.h"

namespace weft::io {
namespace {

using ::testing::HasSubstr;

const std::string kDifficult =
    "plain\n\ttabs, \xC3\xA9t\xC3\xA9, \xE4\xB8\xAD\xE6\x96\x87, \xF0\x9F\xA7\xB6, e\xCC\x81, "
    "\xEF\xBB\xBF\x7F\xF4\x8F\xBF\xBF";

std::shared_ptr<const Tokenizer> char_of(const std::string& text) {
  return make_tokenizer("char", [&](const auto& take) { take(text); });
}

TEST(BytesTokenizer, KeepsAnyBytes) {
  const auto tokenizer = make_tokenizer("bytes");
  EXPECT_EQ(tokenizer->name(), "bytes");
  EXPECT_EQ(tokenizer->vocab_size(), 256);
  std::string every;
  for (int byte = 0; byte < 256; ++byte) every.push_back(static_cast<char>(byte));
  const auto ids = tokenizer->encode(every);
  for (int32_t byte = 0; byte < 256; ++byte) EXPECT_EQ(ids[static_cast<size_t>(byte)], byte);
  EXPECT_EQ(tokenizer->decode(ids), every);
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::string text(random() % 300, '\0');
    for (char& c : text) c = static_cast<char>(random());
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
  EXPECT_TRUE(tokenizer->encode("").empty());
}

TEST(CharTokenizer, OrdersCodePointsAndRoundTrips) {
  const auto tokenizer = char_of(
      "b\xC3\xA9"
      "a\xF0\x9F\xA7\xB6"
      "b");
  EXPECT_EQ(tokenizer->name(), "char");
  EXPECT_EQ(tokenizer->vocab_size(), 4);
  EXPECT_EQ(tokenizer->encode("ab\xC3\xA9\xF0\x9F\xA7\xB6"), (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(tokenizer->token_bytes(3), "\xF0\x9F\xA7\xB6");
  const auto difficult = char_of(kDifficult);
  EXPECT_EQ(difficult->decode(difficult->encode(kDifficult)), kDifficult);
}

TEST(CharTokenizer, RoundTripsRandomTextsFedInPieces) {
  std::mt19937 random(2);
  for (int round = 0; round < 100; ++round) {
    std::vector<int32_t> code_points;
    std::u32string wide;
    std::string text;
    const size_t length = 1 + random() % 200;
    for (size_t i = 0; i < length; ++i) {
      uint32_t c = random() % (round % 2 == 0 ? 0x80 : 0x110000);
      if (c >= 0xD800 && c < 0xE000) c = 'x';
      // An independent encoder: by the table of RFC 3629.
      const auto tail = [&](int shift) { return static_cast<char>(0x80 | ((c >> shift) & 63)); };
      if (c < 0x80) {
        text += static_cast<char>(c);
      } else if (c < 0x800) {
        text += {static_cast<char>(0xC0 | (c >> 6)), tail(0)};
      } else if (c < 0x10000) {
        text += {static_cast<char>(0xE0 | (c >> 12)), tail(6), tail(0)};
      } else {
        text += {static_cast<char>(0xF0 | (c >> 18)), tail(12), tail(6), tail(0)};
      }
      wide.push_back(c);
    }
    const auto tokenizer = make_tokenizer("char", [&](const auto& take) {
      for (size_t start = 0; start < text.size();) {
        const size_t size = 1 + random() % 5;  // cuts characters
        take(std::string_view(text).substr(start, size));
        start += size;
      }
    });
    EXPECT_EQ(tokenizer->vocab_size(),
              static_cast<int64_t>(std::set<char32_t>(wide.begin(), wide.end()).size()));
    const auto ids = tokenizer->encode(text);
    EXPECT_EQ(ids.size(), length);
    EXPECT_EQ(tokenizer->decode(ids), text);
  }
}

TEST(CharTokenizer, InvalidUtf8SaysTheByte) {
  // A continuation byte, a cut character, overlong forms, a surrogate, above U+10FFFF, no lead
  // byte.
  for (const std::string bad : {"\x80", "\xC3", "\xE4\xB8", "\xC0\xAF", "\xE0\x80\x80",
                                "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xF0\x80\x80\x80", "\xFF"}) {
    EXPECT_THAT(error_of<IoError>([&] { char_of("abc" + bad); }),
                HasSubstr("invalid UTF-8 at byte 3 of the training text"));
    EXPECT_THAT(error_of<IoError>([&] { char_of("abc" + bad + "d"); }), HasSubstr("at byte 3 "));
    EXPECT_THAT(error_of<IoError>([&] { char_of("abcd")->encode("ab" + bad + "c"); }),
                HasSubstr("invalid UTF-8 at byte 2 of the text"));
  }
}

TEST(CharTokenizer, UnknownCharacterIsNamedWithItsPosition) {
  const auto tokenizer = char_of("abc");
  EXPECT_THAT(error_of<IoError>([&] { tokenizer->encode("ab\xC3\xA9"); }),
              HasSubstr("character U+00E9 '\xC3\xA9' at byte 2 of the text is not among its 3"));
  std::vector<int32_t> ids;
  EXPECT_THAT(error_of<IoError>([&] { tokenizer->encode_to("a\n", 1000, ids); }),
              HasSubstr("character U+000A at byte 1001"));
  EXPECT_THROW(char_of(""), IoError);
}

TEST(Tokenizer, CountsBytes) {
  const auto tokenizer = char_of(kDifficult);
  const auto ids = tokenizer->encode(kDifficult);
  EXPECT_LT(ids.size(), kDifficult.size());
  EXPECT_EQ(tokenizer->count_bytes(ids), static_cast<int64_t>(kDifficult.size()));
  std::vector<int32_t> masked = ids;
  masked.push_back(kIgnoreIndex);
  EXPECT_EQ(tokenizer->count_bytes(from_vector(masked, {1, static_cast<int64_t>(masked.size())})),
            static_cast<int64_t>(kDifficult.size()));
  EXPECT_THROW(tokenizer->count_bytes(std::vector<int32_t>{1 << 20}), IndexError);
  EXPECT_THROW(tokenizer->count_bytes(zeros({2})), DTypeError);
}

TEST(Tokenizer, IdsOutsideTheVocabularyAreRefused) {
  for (const auto& tokenizer : {make_tokenizer("bytes"), char_of("abc")}) {
    for (const int64_t id : {int64_t{-1}, tokenizer->vocab_size(), int64_t{INT32_MAX}}) {
      EXPECT_THAT(error_of<IndexError>(
                      [&] { tokenizer->decode(std::vector<int32_t>{static_cast<int32_t>(id)}); }),
                  HasSubstr(std::to_string(id)));
    }
  }
}

TEST(Tokenizer, DefinitionsRoundTripWithTheirHash) {
  const TemporaryFolder folder;
  for (const auto& tokenizer :
       {make_tokenizer("bytes"), char_of(kDifficult + std::string(1, '\0'))}) {
    const auto again = parse_tokenizer(tokenizer->to_json(), "here");
    EXPECT_EQ(again->name(), tokenizer->name());
    EXPECT_EQ(again->to_json(), tokenizer->to_json());
    EXPECT_EQ(again->hash(), tokenizer->hash());
    EXPECT_EQ(again->hash().size(), 16u);
    EXPECT_EQ(again->encode(kDifficult), tokenizer->encode(kDifficult));
    const auto path = folder / "tokenizer.json";
    write_bytes(path, tokenizer->to_json());
    EXPECT_EQ(make_tokenizer(path.string())->hash(), tokenizer->hash());
  }
  EXPECT_NE(char_of("ab")->hash(), char_of("abc")->hash());
  EXPECT_EQ(char_of("ab")->hash(), char_of("bab")->hash());
  EXPECT_EQ(make_char_tokenizer("ab")->hash(), char_of("ab")->hash());
}

TEST(Tokenizer, BadDefinitionsAreRefused) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"", "not a JSON object"},
      {"[1]", "not a JSON object"},
      {"{", "not a JSON object"},
      {"{}", "no text field \"type\""},
      {R"({"type": 3})", "no text field \"type\""},
      {R"({"type": "bpe"})", "unknown type 'bpe'"},
      {R"({"type": "bytes"})", "version 1 only"},
      {R"({"type": "bytes", "version": 2})", "version 1 only"},
      {R"({"type": "char", "version": 1})", "no text field \"characters\""},
      {R"({"type": "char", "version": 1, "characters": ""})", "no characters"},
      {"{\"type\": \"char\", \"version\": 1, \"characters\": \"\xFF\"}", "not a JSON object"},
  };
  for (const auto& [json, reason] : cases) {
    const std::string text = error_of<IoError>([&, j = json] { parse_tokenizer(j, "x.json"); });
    EXPECT_THAT(text, HasSubstr(reason)) << json;
    EXPECT_THAT(text, HasSubstr("'x.json'")) << json;
  }
  EXPECT_THAT(error_of<IoError>([] { make_tokenizer("/no/such.json"); }),
              HasSubstr("No such file"));
}

TEST(Tokenizer, UnknownSpecificationListsTheKnownOnes) {
  EXPECT_THAT(error_of<ConfigError>([] { make_tokenizer("word"); }),
              HasSubstr("unknown tokenizer 'word'; known are bytes, char"));
  EXPECT_THROW(make_tokenizer("char"), ConfigError);
  EXPECT_TRUE(needs_training_text("char"));
  EXPECT_FALSE(needs_training_text("bytes"));
  EXPECT_FALSE(needs_training_text("a/b.json"));
}

TEST(StreamDecoder, NeverCutsACharacterAndLosesNothing) {
  const auto tokenizer = make_tokenizer("bytes");
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    std::string text = round % 2 == 0 ? kDifficult : "";
    for (int i = 0; i < 20; ++i) text.push_back(static_cast<char>(random() % 4 ? random() : 'a'));
    StreamDecoder decoder(tokenizer);
    std::string joined;
    for (const int32_t id : tokenizer->encode(text)) joined += decoder.push(id);
    EXPECT_LE(text.size() - joined.size(), 3u);
    EXPECT_EQ(joined + decoder.finish(), text);
    EXPECT_EQ(decoder.finish(), "");
  }
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(0xF0), "");
  EXPECT_EQ(decoder.push(0x9F), "");
  EXPECT_EQ(decoder.push(0xA7), "");
  EXPECT_EQ(decoder.push(0xB6), "\xF0\x9F\xA7\xB6");
  EXPECT_EQ(decoder.push(0xC3), "");
  EXPECT_EQ(decoder.push('a'),
            "\xC3"
            "a");  // can never become a character
  EXPECT_EQ(decoder.push(0xE0), "");
  EXPECT_EQ(decoder.push(0x80), "\xE0\x80");  // overlong
}

TEST(Tokenizer, CompletePrefixLetsTextsBeEncodedInPieces) {
  const auto tokenizer = char_of(kDifficult);
  for (size_t cut = 0; cut <= kDifficult.size(); ++cut) {
    const std::string_view text = kDifficult;
    const size_t length = tokenizer->complete_prefix(text.substr(0, cut));
    EXPECT_LE(cut - length, 3u);
    std::vector<int32_t> ids = tokenizer->encode(text.substr(0, length));
    tokenizer->encode_to(text.substr(length), length, ids);
    EXPECT_EQ(ids, tokenizer->encode(text));
  }
}

}  // namespace
}  // namespace weft::io
