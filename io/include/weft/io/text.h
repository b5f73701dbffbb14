#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace weft::io {

/// The text files that inputs stand for: files as they are given; for a folder all files in it and
/// below named *.txt, *.text, *.md, *.jsonl or *.ndjson, hidden ones excepted, in byte order of
/// their paths. Throws IoError on a missing input or a folder without any.
std::vector<std::filesystem::path> list_text_files(
    const std::vector<std::filesystem::path>& inputs);

/// Whether a file holds one JSON object a line: *.jsonl, *.ndjson.
bool is_json_lines(const std::filesystem::path& path);

/// Receives documents. A plain text file is one document, as is each line of a JSONL file.
class TextVisitor {
 public:
  virtual ~TextVisitor() = default;
  /// `origin` names the document in error texts: "'a.txt'", "'b.jsonl' line 7".
  virtual void begin_document(const std::string& origin, uint64_t bytes) = 0;
  /// The text of the document, in order, in pieces of any size that may cut characters.
  virtual void text(std::string_view piece) = 0;
  virtual void end_document() = 0;
};

/// Reads files in bounded memory (for JSONL: one line); empty documents are skipped. `field` is the
/// member of each JSONL object that holds the text; empty lines are skipped. Throws IoError naming
/// file and line.
void read_documents(const std::vector<std::filesystem::path>& files, const std::string& field,
                    TextVisitor& visitor);

}  // namespace weft::io
