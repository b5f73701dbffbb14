#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "weft/io/token_source.h"
#include "weft/io/tokenizer.h"

namespace weft::apps {

/// What `--data` names, ready for loaders.
struct Data {
  std::string description;  ///< one line for the user
  std::shared_ptr<const io::Tokenizer> tokenizer;
  std::shared_ptr<const io::TokenSource> train;
  std::shared_ptr<const io::TokenSource> valid;  ///< null when nothing is held out
};

/// Opens a built-in set (builtin:NAME), a token dataset (.h5) or a text file, which is tokenized in
/// memory. The tokenizer specification and the held-out fraction apply to text alone. Throws
/// IoError and ConfigError.
Data open_data(const std::string& data, const std::string& tokenizer, double valid_fraction,
               uint64_t seed);

}  // namespace weft::apps
