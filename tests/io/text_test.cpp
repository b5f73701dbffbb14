#include "weft/io/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "temporary_folder.h"

namespace weft::io {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Collector final : public TextVisitor {
 public:
  void begin_document(const std::string& origin, uint64_t bytes) override {
    origins.push_back(origin);
    sizes.push_back(bytes);
    documents.emplace_back();
  }
  void text(std::string_view piece) override { documents.back() += piece; }
  void end_document() override { ++ended; }

  std::vector<std::string> origins;
  std::vector<uint64_t> sizes;
  std::vector<std::string> documents;
  size_t ended = 0;
};

std::vector<std::string> documents_of(const std::filesystem::path& file,
                                      const std::string& field = "text") {
  Collector collector;
  read_documents({file}, field, collector);
  EXPECT_EQ(collector.ended, collector.documents.size());
  for (size_t i = 0; i < collector.documents.size(); ++i)
    EXPECT_EQ(collector.sizes[i], collector.documents[i].size());
  return collector.documents;
}

TEST(Text, FoldersAreListedInOrder) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "d/b");
  std::filesystem::create_directories(folder / "d/.git");
  for (const char* name : {"d/z.txt", "d/a.md", "d/b/c.jsonl", "d/b.txt", "d/image.png",
                           "d/.hidden.txt", "d/.git/x.txt", "d/B.text"})
    write_bytes(folder / name, "x");
  EXPECT_THAT(list_text_files({folder / "d"}),
              ElementsAre(folder / "d/B.text", folder / "d/a.md", folder / "d/b.txt",
                          folder / "d/b/c.jsonl", folder / "d/z.txt"));
  EXPECT_THAT(list_text_files({folder / "d/z.txt", folder / "d/image.png", folder / "d/b"}),
              ElementsAre(folder / "d/z.txt", folder / "d/image.png", folder / "d/b/c.jsonl"));
  EXPECT_THAT(error_of<IoError>([&] { list_text_files({folder / "none.txt"}); }),
              HasSubstr("none.txt': No such file"));
  std::filesystem::create_directories(folder / "empty");
  EXPECT_THAT(error_of<IoError>([&] { list_text_files({folder / "empty"}); }),
              HasSubstr("has no file *.txt"));
  EXPECT_THROW(list_text_files({"/dev/zero"}), IoError);
}

TEST(Text, PlainFilesAreOneDocumentByteForByte) {
  const TemporaryFolder folder;
  std::string text(3'000'000, '\0');  // several pieces
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 7919 >> 8);
  write_bytes(folder / "a.txt", text);
  EXPECT_THAT(documents_of(folder / "a.txt"), ElementsAre(text));
  write_bytes(folder / "empty.txt", "");
  EXPECT_THAT(documents_of(folder / "empty.txt"), IsEmpty());
}

TEST(Text, JsonLinesAreADocumentEach) {
  const TemporaryFolder folder;
  const auto path = folder / "a.jsonl";
  write_bytes(path,
              "\xEF\xBB\xBF{\"text\": \"one\\nline \\u00e9 \\ud83e\\uddf6\", \"n\": 1}\r\n"
              "\n   \t\r\n"
              "{\"n\": {\"text\": \"inner\"}, \"text\": \"two\"}\n"
              "{\"text\": \"\"}\n"
              "{\"text\": \"three\"}");
  EXPECT_THAT(documents_of(path),
              ElementsAre("one\nline \xC3\xA9 \xF0\x9F\xA7\xB6", "two", "three"));
  write_bytes(path, "{\"body\": \"b\", \"text\": 3}\n");
  EXPECT_THAT(documents_of(path, "body"), ElementsAre("b"));
  Collector collector;
  write_bytes(path, "\n{\"text\": \"x\"}\n");
  read_documents({path}, "text", collector);
  EXPECT_THAT(collector.origins, ElementsAre("'" + path.string() + "' line 2"));
}

TEST(Text, JsonLineErrorsNameTheLine) {
  const TemporaryFolder folder;
  const auto path = folder / "a.jsonl";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{\"text\": \"x\"", "not a JSON object"},
      {"\"text\"", "not a JSON object"},
      {"[1, 2]", "not a JSON object"},
      {"{\"text\": \"x\"} {}", "not a JSON object"},
      {"{\"text\": \"\xFF\"}", "not a JSON object"},
      {std::string(100'000, '['), "not a JSON object"},
      {"{\"Text\": \"x\"}", "has no field \"text\""},
      {"{\"text\": 3}", "field \"text\" is not text"},
      {"{\"text\": null}", "field \"text\" is not text"},
      {"plain text", "not a JSON object"},
  };
  for (const auto& [line, reason] : cases) {
    write_bytes(path, "{\"text\": \"good\"}\n" + line + "\n");
    const std::string text = error_of<IoError>([&] { documents_of(path); });
    EXPECT_THAT(text, HasSubstr(path.string() + "' line 2: ")) << line.substr(0, 40);
    EXPECT_THAT(text, HasSubstr(reason)) << line.substr(0, 40);
  }
}

TEST(Text, LongLinesAreTaken) {
  const TemporaryFolder folder;
  const auto path = folder / "a.jsonl";
  const std::string document(5'000'000, 'x');
  write_bytes(path, "{\"text\": \"" + document + "\"}\n{\"text\": \"y\"}\n");
  EXPECT_THAT(documents_of(path), ElementsAre(document, "y"));
}

}  // namespace
}  // namespace weft::io
