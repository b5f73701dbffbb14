#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weft/tensor/tensor.h"

namespace weft::io {

/// Targets of this value are not scored.
inline constexpr int32_t kIgnoreIndex = -100;

/// Turns text into token ids 0 <= id < vocab_size() and back. Immutable: safe in several threads.
/// decode(encode(text)) == text for every text that encode() takes.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// The kind: "bytes", "char".
  virtual std::string name() const = 0;
  virtual int64_t vocab_size() const = 0;
  /// Appends the ids of `text`. `position` is the place of `text` in its document, in bytes, for
  /// error texts. Throws IoError on text that the tokenizer does not take.
  virtual void encode_to(std::string_view text, uint64_t position,
                         std::vector<int32_t>& ids) const = 0;
  /// The bytes of one token. Throws IndexError outside the vocabulary.
  virtual std::string_view token_bytes(int32_t id) const = 0;
  /// Length of the longest prefix of `text` that can be encoded by itself whatever follows; for
  /// encoding a long text in pieces.
  virtual size_t complete_prefix(std::string_view text) const = 0;
  /// The whole definition as JSON text; parse_tokenizer() reads it. Equal tokenizers give equal
  /// texts.
  virtual std::string to_json() const = 0;

  std::vector<int32_t> encode(std::string_view text) const;
  std::string decode(std::span<const int32_t> ids) const;
  /// Bytes of text that the ids stand for, which bits per byte are counted by. Negative ids
  /// (kIgnoreIndex) count nothing. Throws IndexError.
  int64_t count_bytes(std::span<const int32_t> ids) const;
  /// The same for a tensor of any shape, i32 or i64.
  int64_t count_bytes(const Tensor& ids) const;
  /// xxHash64 of to_json(), 16 hexadecimal digits.
  std::string hash() const;
};

/// Calls its argument with the pieces of a text, in order.
using TextFeed = std::function<void(const std::function<void(std::string_view)>&)>;

/// Makes a tokenizer from a specification:
///   bytes          one token a byte, 256 ids; keeps any bytes
///   char           one token a code point of the training text, which must be UTF-8
///   NAME.json      a definition that to_json() wrote
/// Kinds that are made from text take it from `training_text`, which is called at most once.
/// Throws ConfigError listing the known ones; IoError on bad text or a bad file.
std::shared_ptr<const Tokenizer> make_tokenizer(std::string_view spec,
                                                const TextFeed& training_text = {});
/// Whether make_tokenizer() needs training text for this specification. Throws ConfigError.
bool needs_training_text(std::string_view spec);
/// Inverse of Tokenizer::to_json(). `origin` names the place in the IoError.
std::shared_ptr<const Tokenizer> parse_tokenizer(std::string_view json, std::string_view origin);
/// A char tokenizer for these characters (UTF-8; order and repetition do not matter).
std::shared_ptr<const Tokenizer> make_char_tokenizer(std::string_view alphabet);

/// Decodes a stream of tokens so that no character is cut: the first bytes of a UTF-8 character
/// wait for the rest. Bytes that are not UTF-8 pass as they are. The texts joined are
/// decode() of the ids joined.
class StreamDecoder {
 public:
  explicit StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer);
  /// Text that is complete with this token; may be empty. Throws IndexError.
  std::string push(int32_t id);
  /// What still waits.
  std::string finish();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string waiting_;
};

}  // namespace weft::io
