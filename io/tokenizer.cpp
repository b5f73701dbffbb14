#include "weft/io/tokenizer.h"

#include <algorithm>
#include <array>

#include <nlohmann/json.hpp>

#include "weft/tensor/check.h"

#include "file_descriptor.h"
#include "hash.h"
#include "utf8.h"

namespace weft::io {
namespace {

constexpr int kDefinitionVersion = 1;

class BytesTokenizer final : public Tokenizer {
 public:
  BytesTokenizer() {
    for (size_t byte = 0; byte < bytes_.size(); ++byte) bytes_[byte] = static_cast<char>(byte);
  }

  std::string name() const override { return "bytes"; }
  int64_t vocab_size() const override { return static_cast<int64_t>(bytes_.size()); }

  void encode_to(std::string_view text, uint64_t /*position*/,
                 std::vector<int32_t>& ids) const override {
    ids.reserve(ids.size() + text.size());
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  }

  std::string_view token_bytes(int32_t id) const override {
    WEFT_CHECK(id >= 0 && id < vocab_size(), IndexError,
               "tokenizer 'bytes': token id {} is outside its vocabulary of 256", id);
    return {&bytes_[static_cast<size_t>(id)], 1};
  }

  size_t complete_prefix(std::string_view text) const override { return text.size(); }

  std::string to_json() const override {
    return nlohmann::json{{"type", "bytes"}, {"version", kDefinitionVersion}}.dump();
  }

 private:
  std::array<char, 256> bytes_{};
};

/// Ids in the order of code points.
class CharTokenizer final : public Tokenizer {
 public:
  /// `code_points` ascending, without repetition, not empty.
  explicit CharTokenizer(const std::vector<uint32_t>& code_points)
      : ids_(code_points.back() + size_t{1}, kUnknown) {
    for (const uint32_t code_point : code_points) {
      ids_[code_point] = static_cast<int32_t>(starts_.size());
      starts_.push_back(text_.size());
      append_utf8(code_point, text_);
    }
    starts_.push_back(text_.size());
  }

  std::string name() const override { return "char"; }
  int64_t vocab_size() const override { return static_cast<int64_t>(starts_.size()) - 1; }

  void encode_to(std::string_view text, uint64_t position,
                 std::vector<int32_t>& ids) const override {
    ids.reserve(ids.size() + text.size());
    size_t next = 0;
    while (next < text.size()) {
      const CodePoint c = first_code_point(text.substr(next));
      WEFT_CHECK(c.bytes > 0, IoError, "tokenizer 'char': invalid UTF-8 at byte {} of the text",
                 position + next);
      const int32_t id = c.value < ids_.size() ? ids_[c.value] : kUnknown;
      WEFT_CHECK(id != kUnknown, IoError,
                 "tokenizer 'char': character {} at byte {} of the text is not among its {} "
                 "characters",
                 describe_code_point(c.value), position + next, vocab_size());
      ids.push_back(id);
      next += c.bytes;
    }
  }

  std::string_view token_bytes(int32_t id) const override {
    WEFT_CHECK(id >= 0 && id < vocab_size(), IndexError,
               "tokenizer 'char': token id {} is outside its vocabulary of {}", id, vocab_size());
    const auto index = static_cast<size_t>(id);
    return std::string_view(text_).substr(starts_[index], starts_[index + 1] - starts_[index]);
  }

  size_t complete_prefix(std::string_view text) const override {
    return complete_utf8_prefix(text);
  }

  std::string to_json() const override {
    return nlohmann::json{{"type", "char"}, {"version", kDefinitionVersion}, {"characters", text_}}
        .dump();
  }

 private:
  static constexpr int32_t kUnknown = -1;

  std::vector<int32_t> ids_;    // by code point
  std::vector<size_t> starts_;  // of each token in text_, and the end
  std::string text_;            // all characters
};

/// Collects the code points of a text that comes in pieces, which may cut characters.
class CharCollector {
 public:
  CharCollector() : seen_(0x110000, false) {}

  void add(std::string_view piece) {
    waiting_ += piece;
    consume(complete_utf8_prefix(waiting_));
  }

  std::shared_ptr<const Tokenizer> finish() {
    consume(waiting_.size());
    std::vector<uint32_t> code_points;
    for (uint32_t c = 0; c < seen_.size(); ++c) {
      if (seen_[c]) code_points.push_back(c);
    }
    WEFT_CHECK(!code_points.empty(), IoError, "tokenizer 'char': the training text is empty");
    return std::make_shared<CharTokenizer>(code_points);
  }

 private:
  void consume(size_t bytes) {
    const std::string_view text(waiting_.data(), bytes);
    size_t next = 0;
    while (next < text.size()) {
      const CodePoint c = first_code_point(text.substr(next));
      WEFT_CHECK(c.bytes > 0, IoError,
                 "tokenizer 'char': invalid UTF-8 at byte {} of the training text",
                 position_ + next);
      seen_[c.value] = true;
      next += c.bytes;
    }
    position_ += bytes;
    waiting_.erase(0, bytes);
  }

  std::vector<bool> seen_;
  std::string waiting_;
  uint64_t position_ = 0;
};

bool is_definition_file(std::string_view spec) {
  return spec.ends_with(".json");
}

}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  encode_to(text, 0, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  text.reserve(ids.size());
  for (const int32_t id : ids) text += token_bytes(id);
  return text;
}

int64_t Tokenizer::count_bytes(std::span<const int32_t> ids) const {
  size_t bytes = 0;
  for (const int32_t id : ids) {
    if (id >= 0) bytes += token_bytes(id).size();
  }
  return static_cast<int64_t>(bytes);
}

int64_t Tokenizer::count_bytes(const Tensor& ids) const {
  WEFT_CHECK(ids.defined() && (ids.dtype() == DType::i32 || ids.dtype() == DType::i64), DTypeError,
             "count_bytes: takes ids of i32 or i64, got {}", ids);
  return count_bytes(ids.to_vector<int32_t>());
}

std::string Tokenizer::hash() const {
  return to_hex(hash_bytes(to_json()));
}

bool needs_training_text(std::string_view spec) {
  WEFT_CHECK(spec == "bytes" || spec == "char" || is_definition_file(spec), ConfigError,
             "unknown tokenizer '{}'; known are bytes, char, and the path of a definition "
             "(tokenizer.json)",
             spec);
  return spec == "char";
}

std::shared_ptr<const Tokenizer> make_tokenizer(std::string_view spec,
                                                const TextFeed& training_text) {
  if (needs_training_text(spec)) {
    WEFT_CHECK(training_text != nullptr, ConfigError,
               "tokenizer '{}' is made from a training text, and none was given", spec);
    CharCollector collector;
    training_text([&](std::string_view piece) { collector.add(piece); });
    return collector.finish();
  }
  if (is_definition_file(spec)) return parse_tokenizer(read_small_file(spec), spec);
  return std::make_shared<BytesTokenizer>();
}

std::shared_ptr<const Tokenizer> make_char_tokenizer(std::string_view alphabet) {
  CharCollector collector;
  collector.add(alphabet);
  return collector.finish();
}

std::shared_ptr<const Tokenizer> parse_tokenizer(std::string_view json, std::string_view origin) {
  const auto definition = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  WEFT_CHECK(definition.is_object(), IoError, "tokenizer of '{}': it is not a JSON object", origin);
  const auto text_field = [&](const char* key) -> std::string {
    const auto field = definition.find(key);
    WEFT_CHECK(field != definition.end() && field->is_string(), IoError,
               "tokenizer of '{}': it has no text field \"{}\"", origin, key);
    return field->get<std::string>();
  };
  const std::string type = text_field("type");
  WEFT_CHECK(type == "bytes" || type == "char", IoError,
             "tokenizer of '{}': unknown type '{}'; known are bytes and char", origin, type);
  const auto version = definition.find("version");
  WEFT_CHECK(
      version != definition.end() && version->is_number_integer() && *version == kDefinitionVersion,
      IoError, "tokenizer of '{}': this program reads version {} only", origin, kDefinitionVersion);
  if (type == "bytes") return std::make_shared<BytesTokenizer>();
  const std::string characters = text_field("characters");
  WEFT_CHECK(!characters.empty(), IoError, "tokenizer of '{}': it has no characters", origin);
  return make_char_tokenizer(characters);
}

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer)
    : tokenizer_(std::move(tokenizer)) {}

std::string StreamDecoder::push(int32_t id) {
  waiting_ += tokenizer_->token_bytes(id);
  std::string ready = waiting_.substr(0, complete_utf8_prefix(waiting_));
  waiting_.erase(0, ready.size());
  return ready;
}

std::string StreamDecoder::finish() {
  return std::exchange(waiting_, {});
}

}  // namespace weft::io
