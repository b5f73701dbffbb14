#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "weft/io/token_source.h"
#include "weft/io/tokenizer.h"

namespace weft::io {

enum class Split : uint8_t { train, valid };

/// "train", "valid".
std::string_view to_string(Split split);

/// Writes a token dataset: one HDF5 file with /train/tokens and /valid/tokens (1-D, u16 where the
/// vocabulary allows, else u32; chunked, shuffle and deflate), /tokenizer (its definition as JSON
/// text), and on the root the attributes format, format_version, vocab_size, tokenizer and
/// tokenizer_hash. Streams in bounded memory; the file appears on commit(). Throws IoError.
class TokenDatasetWriter {
 public:
  TokenDatasetWriter(const std::filesystem::path& target,
                     std::shared_ptr<const Tokenizer> tokenizer);
  ~TokenDatasetWriter();
  TokenDatasetWriter(const TokenDatasetWriter&) = delete;
  TokenDatasetWriter& operator=(const TokenDatasetWriter&) = delete;

  /// Throws IndexError, with the position, on an id outside the vocabulary.
  void append(Split split, std::span<const int32_t> tokens);
  int64_t size(Split split) const;
  void commit();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// A token dataset of TokenDatasetWriter, or one of the same layout that another program made.
/// Files of Weft are verified as a whole when opened; others are first read through in a child
/// process, as their damage could crash the HDF5 library. Ids are checked as they are read.
class TokenDataset {
 public:
  /// Keeps up to `cache_bytes` of decompressed tokens of each split in memory. Throws IoError:
  /// missing, damaged or foreign file, another format version, a tokenizer that is not known or
  /// does not fit its hash.
  explicit TokenDataset(const std::filesystem::path& path,
                        int64_t cache_bytes = int64_t{256} << 20);

  const std::filesystem::path& path() const { return path_; }
  const std::shared_ptr<const Tokenizer>& tokenizer() const { return tokenizer_; }
  int64_t vocab_size() const { return tokenizer_->vocab_size(); }
  const std::shared_ptr<const TextSource>& train() const { return train_; }
  /// Never null; of size 0 where the file has no such split.
  const std::shared_ptr<const TextSource>& valid() const { return valid_; }

 private:
  std::filesystem::path path_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const TextSource> train_;
  std::shared_ptr<const TextSource> valid_;
};

/// Whether a file looks like HDF5 by its first bytes (not verified). False where it cannot be read.
bool is_hdf5_file(const std::filesystem::path& path);

}  // namespace weft::io
