#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace weft::io {

/// TokenSource::size() of generated data.
inline constexpr int64_t kEndless = std::numeric_limits<int64_t>::max();

/// Where loaders take sequences from: a text of tokens (file or memory), or endless generated
/// sequences. Reading is safe from several threads at once, and the same arguments give the same
/// tokens.
class TokenSource {
 public:
  virtual ~TokenSource() = default;

  /// How error texts call it: "train split of 'data.h5'".
  virtual std::string name() const = 0;
  /// Number of tokens, or kEndless.
  virtual int64_t size() const = 0;
  virtual int64_t vocab_size() const = 0;
  /// Fills a sequence and what is to be predicted at each place; both spans have one length n.
  ///
  /// A text: inputs are the tokens from `position`, targets those from position + 1; 0 <= position
  /// and position + n + 1 <= size(). Generated: `position` is the number of the sequence; any n;
  /// targets may be kIgnoreIndex. Throws IndexError outside, IoError where the data is damaged.
  virtual void read(int64_t position, std::span<int32_t> inputs,
                    std::span<int32_t> targets) const = 0;
};

/// A source of finitely many tokens. Implementations give slices; the shift by one is here.
class TextSource : public TokenSource {
 public:
  void read(int64_t position, std::span<int32_t> inputs, std::span<int32_t> targets) const final;
  /// The tokens from `position`. Throws IndexError where they do not all exist.
  std::vector<int32_t> slice(int64_t position, int64_t count) const;

 protected:
  /// 0 <= position, position + tokens.size() <= size(): already checked.
  virtual void read_tokens(int64_t position, std::span<int32_t> tokens) const = 0;

 private:
  void check_range(int64_t position, int64_t count) const;
};

/// Tokens in memory, two bytes each where the vocabulary allows.
class MemoryTokens final : public TextSource {
 public:
  /// Throws ConfigError unless 1 <= vocab_size < 2^31.
  MemoryTokens(std::string name, int64_t vocab_size);
  /// Throws IndexError, with the position, on an id outside the vocabulary.
  void append(std::span<const int32_t> tokens);

  std::string name() const override { return name_; }
  int64_t size() const override;
  int64_t vocab_size() const override { return vocab_size_; }

 private:
  void read_tokens(int64_t position, std::span<int32_t> tokens) const override;

  std::string name_;
  int64_t vocab_size_;
  std::variant<std::vector<uint16_t>, std::vector<uint32_t>> tokens_;
};

/// Throws IndexError naming `origin`, the id and its position unless all ids lie in the
/// vocabulary. The first token stands at `position`.
void check_token_ids(std::span<const int32_t> tokens, int64_t vocab_size, int64_t position,
                     const std::string& origin);

}  // namespace weft::io
