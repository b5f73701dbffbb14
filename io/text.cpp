#include "weft/io/text.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <system_error>

#include <nlohmann/json.hpp>

#include "weft/tensor/check.h"

#include "file_descriptor.h"

namespace weft::io {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 20;
constexpr size_t kLongestLine = size_t{1} << 28;

/// Reads a file in pieces from its start.
class PieceReader {
 public:
  explicit PieceReader(const std::filesystem::path& path)
      : path_(path), file_(open_for_reading(path)), buffer_(kPieceBytes, '\0') {}

  uint64_t size() const { return file_size(file_.get(), path_); }
  /// Empty at the end.
  std::string_view next() {
    const int64_t got =
        read_at(file_.get(), buffer_.data(), buffer_.size(), static_cast<int64_t>(position_));
    WEFT_CHECK(got >= 0, IoError, "cannot read '{}': {}", path_.string(),
               error_text(static_cast<int>(-got)));
    position_ += static_cast<uint64_t>(got);
    return {buffer_.data(), static_cast<size_t>(got)};
  }

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
  std::string buffer_;
  uint64_t position_ = 0;
};

void read_plain(const std::filesystem::path& path, TextVisitor& visitor) {
  PieceReader reader(path);
  if (reader.size() == 0) return;
  visitor.begin_document(fmt::format("'{}'", path.string()), reader.size());
  for (std::string_view piece = reader.next(); !piece.empty(); piece = reader.next())
    visitor.text(piece);
  visitor.end_document();
}

/// Calls visit(line, number) for each line, without its line feed.
template <class Visit>
void each_line(const std::filesystem::path& path, Visit&& visit) {
  PieceReader reader(path);
  std::string line;
  int64_t number = 1;
  for (std::string_view piece = reader.next(); !piece.empty(); piece = reader.next()) {
    while (!piece.empty()) {
      const size_t end = std::min(piece.find('\n'), piece.size());
      line += piece.substr(0, end);
      WEFT_CHECK(line.size() <= kLongestLine, IoError, "'{}' line {}: it is longer than {} MiB",
                 path.string(), number, kLongestLine >> 20);
      if (end < piece.size()) {
        visit(line, number);
        line.clear();
        ++number;
      }
      piece.remove_prefix(std::min(end + 1, piece.size()));
    }
  }
  if (!line.empty()) visit(line, number);
}

void read_json_lines(const std::filesystem::path& path, const std::string& field,
                     TextVisitor& visitor) {
  each_line(path, [&](const std::string& line, int64_t number) {
    constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
    std::string_view text = line;
    if (number == 1 && text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) return;
    const std::string origin = fmt::format("'{}' line {}", path.string(), number);
    const auto object = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    WEFT_CHECK(object.is_object(), IoError, "{}: it is not a JSON object", origin);
    const auto found = object.find(field);
    WEFT_CHECK(found != object.end(), IoError, "{}: it has no field \"{}\"", origin, field);
    WEFT_CHECK(found->is_string(), IoError, "{}: its field \"{}\" is not text", origin, field);
    const auto& document = found->get_ref<const std::string&>();
    if (document.empty()) return;
    visitor.begin_document(origin, document.size());
    visitor.text(document);
    visitor.end_document();
  });
}

bool is_text_file(const std::filesystem::path& path) {
  constexpr std::array<std::string_view, 3> kPlain = {".txt", ".text", ".md"};
  const std::string extension = path.extension().string();
  return is_json_lines(path) || std::find(kPlain.begin(), kPlain.end(), extension) != kPlain.end();
}

bool is_hidden(const std::filesystem::path& path) {
  return path.filename().string().starts_with('.');
}

std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  std::filesystem::recursive_directory_iterator item(folder, error);
  for (; !error && item != std::filesystem::recursive_directory_iterator(); item.increment(error)) {
    std::error_code ignored;  // what has vanished is no file
    if (is_hidden(item->path())) {
      item.disable_recursion_pending();
    } else if (item->is_regular_file(ignored) && is_text_file(item->path())) {
      files.push_back(item->path());
    }
  }
  WEFT_CHECK(!error, IoError, "cannot read folder '{}': {}", folder.string(), error.message());
  WEFT_CHECK(!files.empty(), IoError,
             "folder '{}' has no file *.txt, *.text, *.md, *.jsonl or *.ndjson", folder.string());
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.native() < b.native(); });
  return files;
}

}  // namespace

bool is_json_lines(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".jsonl" || extension == ".ndjson";
}

std::vector<std::filesystem::path> list_text_files(
    const std::vector<std::filesystem::path>& inputs) {
  std::vector<std::filesystem::path> files;
  for (const std::filesystem::path& input : inputs) {
    std::error_code error;
    if (std::filesystem::is_directory(input, error)) {
      const auto inside = list_folder(input);
      files.insert(files.end(), inside.begin(), inside.end());
    } else {
      open_for_reading(input);  // says why it cannot
      files.push_back(input);
    }
  }
  return files;
}

void read_documents(const std::vector<std::filesystem::path>& files, const std::string& field,
                    TextVisitor& visitor) {
  for (const std::filesystem::path& file : files) {
    if (is_json_lines(file)) {
      read_json_lines(file, field, visitor);
    } else {
      read_plain(file, visitor);
    }
  }
}

}  // namespace weft::io
