#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "weft/io/token_source.h"
#include "weft/io/tokenizer.h"

namespace weft::io {

/// Generated data: endless, seeded, without any file.
struct BuiltinData {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const TokenSource> train;
  /// Documents that training never sees, the same whatever the seed, so that runs compare.
  std::shared_ptr<const TokenSource> valid;
};

struct BuiltinInfo {
  std::string name;     ///< "stories"
  std::string summary;  ///< one line
  std::string options;  ///< "pairs=16", or empty
};

/// The known sets.
std::vector<BuiltinInfo> builtin_data();

/// Whether a --data argument names a built-in set: it starts with "builtin:".
bool is_builtin(std::string_view data);

/// Makes `builtin:NAME` or `builtin:NAME:key=value,...`. Throws ConfigError listing the known names
/// or options.
///
/// Sequence k of a source holds documents (k << 24), (k << 24) + 1, ... Those of `stories` are
/// joined and cut to length, and the first starts in its middle, so that a model with a short
/// context sees every part of a story. Those of `recall` are whole; line feeds fill the rest.
BuiltinData make_builtin(std::string_view data, uint64_t seed);

/// Story `number` of a seed, a pure function of both: a few English sentences about people, places
/// and things that state facts and ask for them at once or much later, each question with its
/// answer ("Where is the red key? barn"). ASCII; 100 bytes to about 5 kB; ends with an empty line.
std::string story(uint64_t seed, uint64_t number);

/// A document of multi-query associative recall (Arora et al., "Zoology: measuring and improving
/// recall in efficient language models", 2023): key-value pairs, then the keys in another order,
/// each followed by its value. One character is one token: keys are letters, values digits and
/// punctuation, as in "a4Q+x0:x0a4Q+\n".
struct RecallDocument {
  std::string text;
  std::string is_answer;  ///< '1' at each character of `text` that is an answer, '0' elsewhere
};

/// Keys that a document can have.
inline constexpr int64_t kMaxRecallPairs = 52;

/// Document `number` of a seed, a pure function of all arguments, with 1 to `max_pairs` pairs (at
/// least half of max_pairs). Throws ConfigError unless 1 <= max_pairs <= kMaxRecallPairs.
RecallDocument recall_document(uint64_t seed, uint64_t number, int64_t max_pairs);

}  // namespace weft::io
