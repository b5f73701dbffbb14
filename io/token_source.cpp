#include "weft/io/token_source.h"

#include <algorithm>
#include <utility>

#include "weft/tensor/check.h"

namespace weft::io {

void check_token_ids(std::span<const int32_t> tokens, int64_t vocab_size, int64_t position,
                     const std::string& origin) {
  const auto bad = std::find_if(tokens.begin(), tokens.end(),
                                [&](int32_t id) { return id < 0 || id >= vocab_size; });
  WEFT_CHECK(bad == tokens.end(), IndexError,
             "{}: token id {} at position {} is outside the vocabulary of {}", origin, *bad,
             position + (bad - tokens.begin()), vocab_size);
}

void TextSource::check_range(int64_t position, int64_t count) const {
  WEFT_CHECK(position >= 0 && count >= 0 && count <= size() && position <= size() - count,
             IndexError, "{}: {} tokens from {} on asked for, it has {}", name(), count, position,
             size());
}

void TextSource::read(int64_t position, std::span<int32_t> inputs,
                      std::span<int32_t> targets) const {
  WEFT_CHECK(inputs.size() == targets.size() && !inputs.empty(), ShapeError,
             "{}: {} inputs and {} targets asked for", name(), inputs.size(), targets.size());
  const auto count = static_cast<int64_t>(inputs.size());
  check_range(position, count + 1);
  read_tokens(position, inputs);
  std::copy(inputs.begin() + 1, inputs.end(), targets.begin());
  read_tokens(position + count, targets.last(1));
}

std::vector<int32_t> TextSource::slice(int64_t position, int64_t count) const {
  check_range(position, count);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  read_tokens(position, tokens);
  return tokens;
}

MemoryTokens::MemoryTokens(std::string name, int64_t vocab_size)
    : name_(std::move(name)), vocab_size_(vocab_size) {
  WEFT_CHECK(vocab_size >= 1 && vocab_size <= INT32_MAX, ConfigError,
             "{}: vocabulary must have 1 to {} tokens, got {}", name_, INT32_MAX, vocab_size);
  if (vocab_size > 1 << 16) tokens_.emplace<std::vector<uint32_t>>();
}

void MemoryTokens::append(std::span<const int32_t> tokens) {
  check_token_ids(tokens, vocab_size_, size(), name_);
  std::visit([&](auto& stored) { stored.insert(stored.end(), tokens.begin(), tokens.end()); },
             tokens_);
}

int64_t MemoryTokens::size() const {
  return std::visit([](const auto& stored) { return static_cast<int64_t>(stored.size()); },
                    tokens_);
}

void MemoryTokens::read_tokens(int64_t position, std::span<int32_t> tokens) const {
  std::visit(
      [&](const auto& stored) {
        const auto first = stored.begin() + position;
        std::transform(first, first + static_cast<int64_t>(tokens.size()), tokens.begin(),
                       [](auto id) { return static_cast<int32_t>(id); });
      },
      tokens_);
}

}  // namespace weft::io
