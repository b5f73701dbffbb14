#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "weft/io/needle.h"
#include "weft/io/recall.h"
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
/// context sees every part of a story. Those of `recall` are whole; line feeds fill the rest. A
/// sequence of `needle` is one document as long as the sequence.
BuiltinData make_builtin(std::string_view data, uint64_t seed);

/// Story `number` of a seed, a pure function of both: a few English sentences about people, places
/// and things that state facts and ask for them at once or much later, each question with its
/// answer ("Where is the red key? barn"). ASCII; 100 bytes to about 5 kB; ends with an empty line.
std::string story(uint64_t seed, uint64_t number);

/// The options of `builtin:recall`, with or without "builtin:" and options behind it. Throws
/// ConfigError.
RecallOptions parse_recall_options(std::string_view data);
/// The options of `builtin:needle`.
NeedleOptions parse_needle_options(std::string_view data);
/// The name of the built-in set that a --data argument names, or "" for anything else.
std::string builtin_name(std::string_view data);

/// The seed of the documents that training never sees; no user can give it.
uint64_t held_out_seed();

}  // namespace weft::io
