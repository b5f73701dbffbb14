#pragma once

#include <cstdint>
#include <string>

namespace weft::io {

/// Keys: 52 letters, then ideographs.
inline constexpr int64_t kMaxRecallKeys = 8192;
/// Distinct values: what guessing is measured against.
inline constexpr int64_t kRecallValues = 41;

/// Shape of the documents of associative recall.
struct RecallOptions {
  int64_t pairs = 16;  ///< most pairs of a document
  int64_t gap = 0;     ///< characters of filler between the pairs and the first query
  int64_t spread = 0;  ///< characters of filler before and among the pairs; -1: what fills the
                       ///< sequence
  int64_t keys = 52;   ///< size of the alphabet of keys, at least `pairs`
  int64_t easy = 0;    ///< percent of training sequences that hold documents without filler, from
                       ///< which a model learns to look up much sooner
  bool exact = false;  ///< always `pairs` pairs; otherwise at least half as many
};

/// Throws ConfigError naming the option, its value and the rule.
void validate(const RecallOptions& options);

/// A document of multi-query associative recall (Arora et al., "Zoology: measuring and improving
/// recall in efficient language models", 2023): key-value pairs, then the keys in another order,
/// each followed by its value, as in "a4Q+x0:x0a4Q+\n". One character is one token: keys are
/// letters, values digits and punctuation. Filler is made of the characters of values; it stands
/// between pairs, never inside one.
struct RecallDocument {
  std::string text;       ///< UTF-8
  std::string is_answer;  ///< for each character of `text` '1' if it is an answer, otherwise '0'

  int64_t length() const { return static_cast<int64_t>(is_answer.size()); }
};

/// Characters of a document with this many pairs and this much filler in all.
constexpr int64_t recall_length(int64_t pairs, int64_t filler = 0) {
  return 4 * pairs + 2 + filler;
}

/// Document `number` of a seed, a pure function of all arguments. A spread of -1 counts as
/// `length` minus the rest of the document (at least 0); `length` says nothing otherwise. Throws
/// ConfigError as validate() does.
RecallDocument recall_document(uint64_t seed, uint64_t number, const RecallOptions& options,
                               int64_t length = 0);

/// All characters of documents with these options.
std::string recall_alphabet(const RecallOptions& options);

}  // namespace weft::io
