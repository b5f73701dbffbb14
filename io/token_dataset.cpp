#include "weft/io/token_dataset.h"

#include <algorithm>
#include <array>
#include <list>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "weft/io/guarded.h"
#include "weft/io/hdf5.h"
#include "weft/tensor/check.h"

#include "file_descriptor.h"
#include "seal.h"

namespace weft::io {
namespace {

constexpr std::string_view kFormat = "weft-tokens";
constexpr int64_t kVersion = 1;
constexpr int64_t kChunk = 32768;  // tokens; also the unit of caching where a file has none
constexpr const char* kTokenizerPath = "/tokenizer";

std::string tokens_path(Split split) {
  return fmt::format("/{}/tokens", to_string(split));
}

/// One split of a file, with its most recently used chunks decompressed in memory.
class DatasetSplit final : public TextSource {
 public:
  DatasetSplit(std::shared_ptr<const Hdf5Reader> file, Split split, int64_t vocab_size,
               int64_t cache_bytes)
      : file_(std::move(file)), split_(split), vocab_size_(vocab_size) {
    const std::string path = tokens_path(split);
    if (split == Split::valid && !file_->has(path)) return;
    const DatasetInfo info = file_->info(path);
    const std::string origin = file_->path().string();
    WEFT_CHECK(info.shape.size() == 1, IoError, "cannot read '{}': '{}' has {} axes, expected 1",
               origin, path, info.shape.size());
    WEFT_CHECK(info.type == ElementType::u16 || info.type == ElementType::u32, IoError,
               "cannot read '{}': '{}' holds {}, expected u16 or u32", origin, path,
               to_string(info.type));
    type_ = info.type;
    size_ = info.numel;
    constexpr int64_t kSmallest = 1024;
    constexpr int64_t kLargest = int64_t{1} << 22;
    if (info.chunk >= kSmallest && info.chunk <= kLargest) chunk_ = info.chunk;
    most_chunks_ =
        std::max<int64_t>(2, cache_bytes / (chunk_ * static_cast<int64_t>(size_of(type_))));
  }

  std::string name() const override {
    return fmt::format("{} split of '{}'", to_string(split_), file_->path().string());
  }
  int64_t size() const override { return size_; }
  int64_t vocab_size() const override { return vocab_size_; }

 private:
  using Chunk = std::vector<char>;

  void read_tokens(int64_t position, std::span<int32_t> tokens) const override {
    while (!tokens.empty()) {
      const int64_t number = position / chunk_;
      const int64_t offset = position - number * chunk_;
      const auto count = std::min<size_t>(tokens.size(), static_cast<size_t>(chunk_ - offset));
      const std::shared_ptr<const Chunk> chunk = get(number);
      const auto copy = [&]<class T>(T /*of what*/) {
        const T* first = reinterpret_cast<const T*>(chunk->data()) + offset;
        std::copy(first, first + count, tokens.begin());
      };
      type_ == ElementType::u16 ? copy(uint16_t{}) : copy(uint32_t{});
      tokens = tokens.subspan(count);
      position += static_cast<int64_t>(count);
    }
  }

  std::shared_ptr<const Chunk> get(int64_t number) const {
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = cached_.find(number); found != cached_.end()) {
        recent_.splice(recent_.begin(), recent_, found->second);
        return recent_.front().second;
      }
    }
    std::shared_ptr<const Chunk> chunk = load(number);
    const std::lock_guard lock(mutex_);
    if (cached_.contains(number)) return chunk;  // another thread was faster
    recent_.emplace_front(number, chunk);
    cached_[number] = recent_.begin();
    if (static_cast<int64_t>(cached_.size()) > most_chunks_) {
      cached_.erase(recent_.back().first);
      recent_.pop_back();
    }
    return chunk;
  }

  std::shared_ptr<const Chunk> load(int64_t number) const {
    const int64_t start = number * chunk_;
    const int64_t count = std::min(chunk_, size_ - start);
    auto chunk = std::make_shared<Chunk>(static_cast<size_t>(count) * size_of(type_));
    file_->read_slice(tokens_path(split_), type_, start, count, chunk->data());
    const auto check = [&]<class T>(T /*of what*/) {
      const T* first = reinterpret_cast<const T*>(chunk->data());
      const T* bad = std::find_if(first, first + count,
                                  [this](T id) { return static_cast<int64_t>(id) >= vocab_size_; });
      WEFT_CHECK(bad == first + count, IoError,
                 "{}: token id {} at position {} is outside the vocabulary of {}", name(), *bad,
                 start + (bad - first), vocab_size_);
    };
    type_ == ElementType::u16 ? check(uint16_t{}) : check(uint32_t{});
    return chunk;
  }

  std::shared_ptr<const Hdf5Reader> file_;
  Split split_;
  int64_t vocab_size_;
  ElementType type_ = ElementType::u16;
  int64_t size_ = 0;
  int64_t chunk_ = kChunk;
  int64_t most_chunks_ = 2;

  mutable std::mutex mutex_;
  mutable std::list<std::pair<int64_t, std::shared_ptr<const Chunk>>> recent_;  // newest first
  mutable std::map<int64_t, decltype(recent_)::iterator> cached_;
};

std::shared_ptr<const Tokenizer> read_tokenizer(const Hdf5Reader& file) {
  const std::string origin = file.path().string();
  const auto format = file.text_attribute("/", "format");
  WEFT_CHECK(
      file.has(tokens_path(Split::train)) && format.value_or(std::string(kFormat)) == kFormat,
      IoError, "cannot read '{}': it is not a token dataset", origin);
  const auto version = file.int_attribute("/", "format_version");
  WEFT_CHECK(version == kVersion, IoError,
             "cannot read '{}': dataset format {}, this program reads format {}", origin,
             version.value_or(0), kVersion);
  const auto name = file.text_attribute("/", "tokenizer");
  const auto vocab_size = file.int_attribute("/", "vocab_size");
  WEFT_CHECK(name && vocab_size, IoError,
             "cannot read '{}': it lacks the attributes tokenizer and vocab_size", origin);
  std::shared_ptr<const Tokenizer> tokenizer;
  if (file.has(kTokenizerPath)) {
    tokenizer = parse_tokenizer(file.read_text(kTokenizerPath), origin);
  } else {
    WEFT_CHECK(*name == "bytes", IoError,
               "cannot read '{}': it does not hold the definition of its tokenizer '{}'", origin,
               *name);
    tokenizer = make_tokenizer("bytes");
  }
  WEFT_CHECK(tokenizer->name() == *name && tokenizer->vocab_size() == *vocab_size, IoError,
             "cannot read '{}': it says tokenizer '{}' of {} tokens, but defines '{}' of {}",
             origin, *name, *vocab_size, tokenizer->name(), tokenizer->vocab_size());
  const auto hash = file.text_attribute("/", "tokenizer_hash");
  WEFT_CHECK(!hash || *hash == tokenizer->hash(), IoError,
             "cannot read '{}': its tokenizer has hash {}, and {} is stated", origin,
             tokenizer->hash(), hash.value_or(""));
  return tokenizer;
}

/// Reads everything once.
void read_through(const std::filesystem::path& path) {
  const auto file = std::make_shared<const Hdf5Reader>(path);
  const auto tokenizer = read_tokenizer(*file);
  for (const Split split : {Split::train, Split::valid}) {
    const DatasetSplit source(file, split, tokenizer->vocab_size(), 0);
    for (int64_t start = 0; start < source.size(); start += kChunk)
      source.slice(start, std::min(kChunk, source.size() - start));
  }
}

}  // namespace

std::string_view to_string(Split split) {
  return split == Split::train ? "train" : "valid";
}

class TokenDatasetWriter::Impl {
 public:
  Impl(const std::filesystem::path& target, std::shared_ptr<const Tokenizer> tokenizer)
      : target_(target), tokenizer_(std::move(tokenizer)), file_(target) {
    constexpr int64_t kMostInTwoBytes = 1 << 16;
    type_ = tokenizer_->vocab_size() <= kMostInTwoBytes ? ElementType::u16 : ElementType::u32;
    for (const Split split : {Split::train, Split::valid})
      file_.create_stream(tokens_path(split), type_, kChunk);
  }

  void append(Split split, std::span<const int32_t> tokens) {
    int64_t& size = sizes_[static_cast<size_t>(split)];
    check_token_ids(tokens, tokenizer_->vocab_size(), size,
                    fmt::format("{} split of '{}'", to_string(split), target_.string()));
    while (!tokens.empty()) {
      const auto piece = tokens.first(std::min<size_t>(tokens.size(), kChunk));
      if (type_ == ElementType::u16) {
        const std::vector<uint16_t> ids(piece.begin(), piece.end());
        file_.append(tokens_path(split), ids.data(), static_cast<int64_t>(ids.size()));
      } else {
        file_.append(tokens_path(split), piece.data(), static_cast<int64_t>(piece.size()));
      }
      size += static_cast<int64_t>(piece.size());
      tokens = tokens.subspan(piece.size());
    }
  }

  int64_t size(Split split) const { return sizes_[static_cast<size_t>(split)]; }

  void commit() {
    file_.write_text(kTokenizerPath, tokenizer_->to_json());
    file_.set_attribute("/", "format", kFormat);
    file_.set_attribute("/", "format_version", kVersion);
    file_.set_attribute("/", "tokenizer", tokenizer_->name());
    file_.set_attribute("/", "tokenizer_hash", tokenizer_->hash());
    file_.set_attribute("/", "vocab_size", tokenizer_->vocab_size());
    file_.commit();
  }

 private:
  std::filesystem::path target_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  Hdf5Writer file_;
  ElementType type_;
  std::array<int64_t, 2> sizes_{};
};

TokenDatasetWriter::TokenDatasetWriter(const std::filesystem::path& target,
                                       std::shared_ptr<const Tokenizer> tokenizer)
    : impl_(std::make_unique<Impl>(target, std::move(tokenizer))) {}
TokenDatasetWriter::~TokenDatasetWriter() = default;

void TokenDatasetWriter::append(Split split, std::span<const int32_t> tokens) {
  impl_->append(split, tokens);
}
int64_t TokenDatasetWriter::size(Split split) const {
  return impl_->size(split);
}
void TokenDatasetWriter::commit() {
  impl_->commit();
}

TokenDataset::TokenDataset(const std::filesystem::path& path, int64_t cache_bytes) : path_(path) {
  if (!has_seal(open_for_reading(path).get()))
    try_in_child(path.string(), [&path] { read_through(path); });
  const auto file = std::make_shared<const Hdf5Reader>(path);
  tokenizer_ = read_tokenizer(*file);
  train_ = std::make_shared<DatasetSplit>(file, Split::train, vocab_size(), cache_bytes);
  valid_ = std::make_shared<DatasetSplit>(file, Split::valid, vocab_size(), cache_bytes);
}

bool is_hdf5_file(const std::filesystem::path& path) {
  try {
    const FileDescriptor file = open_for_reading(path);
    return has_hdf5_signature(file.get());
  } catch (const IoError&) {
    return false;
  }
}

}  // namespace weft::io
