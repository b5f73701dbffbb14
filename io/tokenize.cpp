#include "weft/io/tokenize.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "weft/io/text.h"
#include "weft/io/token_dataset.h"
#include "weft/tensor/check.h"

#include "utf8.h"

namespace weft::io {
namespace {

/// Takes the tokens of one split, in order.
using TokenSink = std::function<void(Split, std::span<const int32_t>)>;

/// What a first reading of the text finds out.
class Survey final : public TextVisitor {
 public:
  /// `train` receives the text for the tokenizer, where it is made from text: checked UTF-8.
  Survey(std::function<void(std::string_view)> train, std::string separator)
      : train_(std::move(train)), separator_(std::move(separator)) {}

  int64_t documents() const { return documents_; }
  uint64_t bytes() const { return bytes_; }

  void begin_document(const std::string& origin, uint64_t /*bytes*/) override {
    if (train_ && documents_ == 1) train_(separator_);
    ++documents_;
    origin_ = origin;
    position_ = 0;
  }

  void text(std::string_view piece) override {
    bytes_ += piece.size();
    if (!train_) return;
    waiting_ += piece;
    take(complete_utf8_prefix(waiting_));
  }

  void end_document() override { take(waiting_.size()); }

 private:
  void take(size_t count) {
    const std::string_view text = std::string_view(waiting_).substr(0, count);
    for (size_t next = 0; next < text.size();) {
      const CodePoint c = first_code_point(text.substr(next));
      WEFT_CHECK(c.bytes > 0, IoError,
                 "{}: invalid UTF-8 at byte {}; the tokenizer 'bytes' takes any bytes", origin_,
                 position_ + next);
      next += c.bytes;
    }
    if (train_) train_(text);
    position_ += count;
    waiting_.erase(0, count);
  }

  std::function<void(std::string_view)> train_;
  std::string separator_;
  std::string origin_;
  std::string waiting_;
  uint64_t position_ = 0;  // of waiting_ in its document
  uint64_t bytes_ = 0;
  int64_t documents_ = 0;
};

/// Encodes text in pieces into one split.
class PieceEncoder {
 public:
  PieceEncoder(const Tokenizer& tokenizer, Split split, const TokenSink& sink)
      : tokenizer_(tokenizer), split_(split), sink_(sink) {}

  int64_t tokens() const { return tokens_; }
  bool started() const { return tokens_ > 0 || !waiting_.empty(); }

  /// `position` of `piece` in the document `origin`, for error texts.
  void add(std::string_view piece, const std::string& origin, uint64_t position) {
    const uint64_t start = position - waiting_.size();
    waiting_ += piece;
    encode(tokenizer_.complete_prefix(waiting_), origin, start);
  }

  void flush(const std::string& origin, uint64_t position) {
    encode(waiting_.size(), origin, position - waiting_.size());
  }

 private:
  void encode(size_t count, const std::string& origin, uint64_t position) {
    ids_.clear();
    try {
      tokenizer_.encode_to(std::string_view(waiting_).substr(0, count), position, ids_);
    } catch (const IoError& error) {
      throw_error<IoError>("{}: {}", origin, error.what());
    }
    sink_(split_, ids_);
    tokens_ += static_cast<int64_t>(ids_.size());
    waiting_.erase(0, count);
  }

  const Tokenizer& tokenizer_;
  Split split_;
  const TokenSink& sink_;
  std::string waiting_;
  std::vector<int32_t> ids_;
  int64_t tokens_ = 0;
};

/// The second reading: encodes, and decides what is held out.
class Splitter final : public TextVisitor {
 public:
  Splitter(const TokenizeOptions& options, const TokenizeSummary& summary, const TokenSink& sink)
      : separator_(options.separator),
        fraction_(options.valid_fraction),
        by_document_(summary.split_by_document),
        cut_(static_cast<uint64_t>(
            std::llround((1.0 - options.valid_fraction) * static_cast<double>(summary.bytes)))),
        train_(*summary.tokenizer, Split::train, sink),
        valid_(*summary.tokenizer, Split::valid, sink) {}

  int64_t train_tokens() const { return train_.tokens(); }
  int64_t valid_tokens() const { return valid_.tokens(); }
  uint64_t bytes() const { return bytes_; }

  void begin_document(const std::string& origin, uint64_t bytes) override {
    origin_ = origin;
    position_ = 0;
    if (by_document_) {
      const auto total = static_cast<double>(bytes_ + bytes);
      in_valid_ = static_cast<double>(valid_bytes_ + bytes) <= fraction_ * total;
      if (in_valid_) valid_bytes_ += bytes;
    }
    if (current().started()) {
      const std::string origin = "the separator between documents";
      current().add(separator_, origin, 0);
      current().flush(origin, separator_.size());
    }
  }

  void text(std::string_view piece) override {
    const bool holds_cut = !by_document_ && !in_valid_ && bytes_ + piece.size() > cut_;
    if (holds_cut) {
      const size_t place = move_cut(piece, cut_ > bytes_ ? cut_ - bytes_ : 0);
      add(piece.substr(0, place));
      piece.remove_prefix(place);
      if (piece.empty()) return;  // a character goes on behind this piece
      current().flush(origin_, position_);
      in_valid_ = true;
    }
    add(piece);
  }

  void end_document() override { current().flush(origin_, position_); }

 private:
  PieceEncoder& current() { return in_valid_ ? valid_ : train_; }

  void add(std::string_view piece) {
    current().add(piece, origin_, position_);
    position_ += piece.size();
    bytes_ += piece.size();
  }

  /// The next start of a line or a character from `place` on.
  static size_t move_cut(std::string_view piece, size_t place) {
    constexpr size_t kLineReach = 1000;
    const size_t line = piece.substr(0, place + kLineReach).find('\n', place);
    if (line != std::string_view::npos && line + 1 < piece.size()) return line + 1;
    constexpr int kMostContinuations = 3;
    for (int i = 0; i < kMostContinuations && place < piece.size(); ++i) {
      if ((static_cast<unsigned char>(piece[place]) & 0xC0) != 0x80) break;
      ++place;
    }
    return place;
  }

  std::string separator_;
  double fraction_;
  bool by_document_;
  uint64_t cut_;
  bool in_valid_ = false;
  uint64_t bytes_ = 0;
  uint64_t valid_bytes_ = 0;
  std::string origin_;
  uint64_t position_ = 0;  // in the document
  PieceEncoder train_;
  PieceEncoder valid_;
};

std::string input_names(const TokenizeOptions& options) {
  std::string names;
  for (const auto& input : options.inputs)
    names += fmt::format("{}'{}'", names.empty() ? "" : ", ", input.string());
  return names;
}

/// First reading: sizes and tokenizer.
TokenizeSummary survey_text(const TokenizeOptions& options,
                            const std::vector<std::filesystem::path>& files) {
  TokenizeSummary summary;
  uint64_t bytes = 0;
  const auto read = [&](const std::function<void(std::string_view)>& train) {
    Survey survey(train, options.separator);
    read_documents(files, options.field, survey);
    summary.documents = survey.documents();
    bytes = survey.bytes();
    WEFT_CHECK(bytes > 0, IoError, "there is no text in {}", input_names(options));
  };
  summary.tokenizer = make_tokenizer(options.tokenizer, read);
  if (bytes == 0) read({});
  summary.bytes = static_cast<int64_t>(bytes);
  summary.split_by_document =
      options.valid_fraction > 0 && std::all_of(files.begin(), files.end(), is_json_lines) &&
      static_cast<double>(summary.documents) * options.valid_fraction >= 2.0;
  return summary;
}

/// Second reading.
void encode_text(const TokenizeOptions& options, const std::vector<std::filesystem::path>& files,
                 TokenizeSummary& summary, const TokenSink& sink) {
  Splitter splitter(options, summary, sink);
  read_documents(files, options.field, splitter);
  WEFT_CHECK(splitter.bytes() == static_cast<uint64_t>(summary.bytes), IoError,
             "the text in {} changed while it was read", input_names(options));
  summary.train_tokens = splitter.train_tokens();
  summary.valid_tokens = splitter.valid_tokens();
  const bool enough =
      summary.train_tokens >= 2 && (options.valid_fraction == 0 || summary.valid_tokens >= 2);
  WEFT_CHECK(enough, IoError,
             "the text in {} is too short: its {} bytes give {} tokens to train on and {} held out",
             input_names(options), summary.bytes, summary.train_tokens, summary.valid_tokens);
}

std::vector<std::filesystem::path> check_and_list(const TokenizeOptions& options) {
  WEFT_CHECK(!options.inputs.empty(), ConfigError, "tokenize: no input is given");
  WEFT_CHECK(options.valid_fraction >= 0 && options.valid_fraction < 1, ConfigError,
             "tokenize: the held-out fraction must be at least 0 and below 1, got {}",
             options.valid_fraction);
  needs_training_text(options.tokenizer);  // an unknown name fails before any reading
  return list_text_files(options.inputs);
}

}  // namespace

TokenizeSummary tokenize_to_dataset(const TokenizeOptions& options,
                                    const std::filesystem::path& target) {
  const auto files = check_and_list(options);
  TokenizeSummary summary = survey_text(options, files);
  TokenDatasetWriter writer(target, summary.tokenizer);
  encode_text(options, files, summary,
              [&](Split split, std::span<const int32_t> ids) { writer.append(split, ids); });
  writer.commit();
  return summary;
}

TokenizedText tokenize_to_memory(const TokenizeOptions& options) {
  const auto files = check_and_list(options);
  TokenizedText result;
  result.summary = survey_text(options, files);
  const int64_t vocab_size = result.summary.tokenizer->vocab_size();
  const auto make = [&](Split split) {
    return std::make_shared<MemoryTokens>(
        fmt::format("{} split of {}", to_string(split), input_names(options)), vocab_size);
  };
  const auto train = make(Split::train);
  const auto valid = make(Split::valid);
  encode_text(options, files, result.summary, [&](Split split, std::span<const int32_t> ids) {
    (split == Split::train ? *train : *valid).append(ids);
  });
  result.train = train;
  result.valid = valid;
  return result;
}

}  // namespace weft::io
