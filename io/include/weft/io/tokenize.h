#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "weft/io/token_source.h"
#include "weft/io/tokenizer.h"

namespace weft::io {

struct TokenizeOptions {
  std::vector<std::filesystem::path> inputs;  ///< files and folders, see list_text_files()
  std::string tokenizer = "bytes";            ///< see make_tokenizer()
  double valid_fraction = 0.05;               ///< 0 <= fraction < 1, of the bytes of text
  std::string field = "text";                 ///< of JSONL objects
  std::string separator = "\n\n";             ///< between documents
};

struct TokenizeSummary {
  std::shared_ptr<const Tokenizer> tokenizer;
  int64_t documents = 0;
  int64_t bytes = 0;  ///< of text, separators excepted
  int64_t train_tokens = 0;
  int64_t valid_tokens = 0;
  bool split_by_document = false;
};

/// Turns text into a token dataset (see TokenDatasetWriter) in two passes and bounded memory. The
/// tokenizer is made from all of the text.
///
/// The held-out split is a function of the text alone. Where the inputs are JSONL with at least 2 /
/// valid_fraction documents, it takes whole documents, spread evenly: each one that does not lift
/// its share above valid_fraction. Otherwise it is the tail of the text from the byte that
/// leaves valid_fraction, moved on to the next start of a line within 1000 bytes, or of a
/// character.
///
/// Throws ConfigError on a bad option; IoError on bad text, naming file, line and byte, and where a
/// split would have fewer than two tokens.
TokenizeSummary tokenize_to_dataset(const TokenizeOptions& options,
                                    const std::filesystem::path& target);

struct TokenizedText {
  TokenizeSummary summary;
  std::shared_ptr<const TextSource> train;
  std::shared_ptr<const TextSource> valid;  ///< of size 0 when valid_fraction is 0
};

/// The same into memory, for training on a text directly.
TokenizedText tokenize_to_memory(const TokenizeOptions& options);

}  // namespace weft::io
