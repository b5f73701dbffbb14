#pragma once

#include <cstdint>
#include <string>

namespace weft::io {

/// Shape of the documents of a passkey search.
struct NeedleOptions {
  int64_t digits = 5;  ///< of each passkey
  int64_t keys = 1;    ///< passkeys of different people in one document
  int64_t asked = 0;   ///< how many of them are asked for; 0: all, in random order
  double depth = -1;   ///< where the first one asked for lies: 0 at the start, 100 right before
                       ///< the question; -1: anywhere. The others lie anywhere.
  int64_t length = 0;  ///< of the documents of a training sequence; 0: each of a random length that
                       ///< fits, so that no distance can be learned by heart
};

/// Most passkeys of a document.
inline constexpr int64_t kMaxNeedleKeys = 16;

/// Throws ConfigError naming the option, its value and the rule.
void validate(const NeedleOptions& options);

/// A passkey hidden in filler text (Mohtashami and Jaggi, "Landmark attention", 2023): sentences
/// without any number, among them "The key of Anna is 48213.", and at the end the same words once
/// more with the number as the answer. ASCII.
struct NeedleDocument {
  std::string text;
  std::string is_answer;  ///< '1' at each character of `text` that is an answer, '0' elsewhere
};

/// Fewest characters of a document.
int64_t shortest_needle_document(const NeedleOptions& options);

/// Document `number` of a seed, a pure function of all arguments, with `length` characters; the
/// last is a line feed, behind the last answer. Throws ConfigError as validate() does, or where
/// `length` is below shortest_needle_document().
NeedleDocument needle_document(uint64_t seed, uint64_t number, int64_t length,
                               const NeedleOptions& options);

}  // namespace weft::io
