#include "weft/io/recall.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "weft/tensor/check.h"

#include "document_random.h"
#include "utf8.h"

namespace weft::io {
namespace {

constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
constexpr std::string_view kValues = "0123456789!\"#$%&'()*+,-./;<=>?@[\\]^_`{|}~";
constexpr char kQuestionMark = ':';  // between the pairs and the queries
constexpr uint32_t kFirstIdeograph = 0x4E00;
static_assert(kValues.size() == kRecallValues);

std::vector<uint32_t> alphabet_of_keys(int64_t count) {
  std::vector<uint32_t> keys;
  for (int64_t i = 0; i < count; ++i) {
    const auto letters = static_cast<int64_t>(kLetters.size());
    keys.push_back(i < letters ? static_cast<uint32_t>(kLetters[static_cast<size_t>(i)])
                               : kFirstIdeograph + static_cast<uint32_t>(i - letters));
  }
  return keys;
}

class Writer {
 public:
  explicit Writer(RecallDocument& document) : document_(document) {}
  void write(uint32_t character, bool is_answer = false) {
    append_utf8(character, document_.text);
    document_.is_answer += is_answer ? '1' : '0';
  }
  void filler(size_t count, DocumentRandom& random) {
    for (size_t i = 0; i < count; ++i) write(static_cast<uint32_t>(random.pick(kValues)));
  }

 private:
  RecallDocument& document_;
};

}  // namespace

void validate(const RecallOptions& options) {
  WEFT_CHECK(options.keys >= 1 && options.keys <= kMaxRecallKeys, ConfigError,
             "recall: keys must be 1 to {}, got {}", kMaxRecallKeys, options.keys);
  WEFT_CHECK(options.pairs >= 1 && options.pairs <= options.keys, ConfigError,
             "recall: pairs must be 1 to {} (the number of keys), got {}", options.keys,
             options.pairs);
  constexpr int64_t kMostFiller = 1 << 24;
  WEFT_CHECK(options.gap >= 0 && options.gap <= kMostFiller, ConfigError,
             "recall: gap must be 0 to {}, got {}", kMostFiller, options.gap);
  WEFT_CHECK(options.spread >= -1 && options.spread <= kMostFiller, ConfigError,
             "recall: spread must be 0 to {}, or -1 to fill the sequence, got {}", kMostFiller,
             options.spread);
  WEFT_CHECK(options.easy >= 0 && options.easy <= 100, ConfigError,
             "recall: easy must be 0 to 100 (percent), got {}", options.easy);
}

RecallDocument recall_document(uint64_t seed, uint64_t number, const RecallOptions& options,
                               int64_t length) {
  validate(options);
  DocumentRandom random(RandomStream::recall, seed, number);
  const auto most = static_cast<size_t>(options.pairs);
  const size_t least = options.exact ? most : (most + 1) / 2;
  const size_t pairs = least + random.below(most - least + 1);
  std::vector<uint32_t> keys = alphabet_of_keys(options.keys);
  random.shuffle(keys);
  keys.resize(pairs);
  std::vector<std::pair<uint32_t, uint32_t>> known;
  for (const uint32_t key : keys) known.emplace_back(key, random.pick(kValues));

  // Filler goes before pairs drawn at random, each place counted as often as it is drawn.
  const int64_t rest = length - recall_length(static_cast<int64_t>(pairs), options.gap);
  const int64_t spread = options.spread >= 0 ? options.spread : std::max<int64_t>(0, rest);
  std::vector<size_t> filler(pairs, 0);
  if (spread > 0) {
    std::vector<size_t> cuts = {0, static_cast<size_t>(spread)};
    for (size_t i = 1; i < pairs; ++i)
      cuts.push_back(random.below(static_cast<size_t>(spread) + 1));
    std::sort(cuts.begin(), cuts.end());
    for (size_t i = 0; i < pairs; ++i) filler[i] = cuts[i + 1] - cuts[i];
  }
  RecallDocument document;
  Writer writer(document);
  for (size_t i = 0; i < pairs; ++i) {
    writer.filler(filler[i], random);
    writer.write(known[i].first);
    writer.write(known[i].second);
  }
  writer.filler(static_cast<size_t>(options.gap), random);
  writer.write(kQuestionMark);
  random.shuffle(known);
  for (const auto& [key, value] : known) {
    writer.write(key);
    writer.write(value, /*is_answer=*/true);
  }
  writer.write('\n');
  return document;
}

std::string recall_alphabet(const RecallOptions& options) {
  validate(options);
  std::string alphabet;
  for (const uint32_t key : alphabet_of_keys(options.keys)) append_utf8(key, alphabet);
  return fmt::format("{}{}{}\n", alphabet, kValues, kQuestionMark);
}

}  // namespace weft::io
