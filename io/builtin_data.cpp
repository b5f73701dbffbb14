#include "weft/io/builtin_data.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>

#include "weft/tensor/check.h"

#include "document_random.h"

namespace weft::io {
namespace {

constexpr std::string_view kPrefix = "builtin:";
constexpr std::string_view kKeys = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
constexpr std::string_view kValues = "0123456789!\"#$%&'()*+,-./;<=>?@[\\]^_`{|}~";
constexpr char kQuestionMark = ':';  // between the pairs and the queries
static_assert(kKeys.size() == kMaxRecallPairs);

constexpr int64_t kDefaultPairs = 16;
constexpr int kDocumentBits = 24;  // documents of one sequence

/// Held-out documents have a seed of their own, which no user can give.
uint64_t held_out_seed() {
  return random_word(0, 0, subsequence(RandomStream::held_out, 0));
}

/// Sequences of generated documents, each starting with its own document.
class GeneratedTokens : public TokenSource {
 public:
  GeneratedTokens(std::string name, std::shared_ptr<const Tokenizer> tokenizer, uint64_t seed)
      : name_(std::move(name)), tokenizer_(std::move(tokenizer)), seed_(seed) {}

  std::string name() const override { return name_; }
  int64_t size() const override { return kEndless; }
  int64_t vocab_size() const override { return tokenizer_->vocab_size(); }

  void read(int64_t position, std::span<int32_t> inputs,
            std::span<int32_t> targets) const override {
    WEFT_CHECK(position >= 0, IndexError, "{}: no sequence {}", name_, position);
    WEFT_CHECK(inputs.size() == targets.size() && !inputs.empty(), ShapeError,
               "{}: {} inputs and {} targets asked for", name_, inputs.size(), targets.size());
    fill(static_cast<uint64_t>(position) << kDocumentBits, inputs, targets);
  }

 protected:
  virtual void fill(uint64_t first_document, std::span<int32_t> inputs,
                    std::span<int32_t> targets) const = 0;
  uint64_t seed() const { return seed_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }

 private:
  std::string name_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  uint64_t seed_;
};

class StoryTokens final : public GeneratedTokens {
 public:
  using GeneratedTokens::GeneratedTokens;

 private:
  void fill(uint64_t document, std::span<int32_t> inputs,
            std::span<int32_t> targets) const override {
    std::string text = story(seed(), document);
    DocumentRandom random(RandomStream::stories, ~seed(), document);
    text.erase(0, random.below(text.size()));
    while (text.size() <= inputs.size()) text += story(seed(), ++document);
    const std::vector<int32_t> ids = tokenizer().encode(text.substr(0, inputs.size() + 1));
    std::copy_n(ids.begin(), inputs.size(), inputs.begin());
    std::copy_n(ids.begin() + 1, targets.size(), targets.begin());
  }
};

/// Characters of a document with this many pairs: pairs, mark, queries, line feed.
constexpr int64_t recall_length(int64_t pairs) {
  return 4 * pairs + 2;
}

class RecallTokens final : public GeneratedTokens {
 public:
  RecallTokens(std::string name, std::shared_ptr<const Tokenizer> tokenizer, uint64_t seed,
               int64_t pairs)
      : GeneratedTokens(std::move(name), std::move(tokenizer), seed), pairs_(pairs) {}

 private:
  void fill(uint64_t document, std::span<int32_t> inputs,
            std::span<int32_t> targets) const override {
    const size_t length = inputs.size() + 1;
    const int64_t pairs = std::min(pairs_, (static_cast<int64_t>(length) - 2) / 4);
    WEFT_CHECK(pairs >= 1, ConfigError, "{}: sequences need at least {} tokens, got {}", name(),
               recall_length(1) - 1, inputs.size());
    RecallDocument sequence;
    for (;; ++document) {
      const RecallDocument next = recall_document(seed(), document, pairs);
      if (sequence.text.size() + next.text.size() > length) break;
      sequence.text += next.text;
      sequence.is_answer += next.is_answer;
    }
    sequence.text.resize(length, '\n');
    sequence.is_answer.resize(length, '0');
    const std::vector<int32_t> ids = tokenizer().encode(sequence.text);
    for (size_t i = 0; i < inputs.size(); ++i) {
      inputs[i] = ids[i];
      targets[i] = sequence.is_answer[i + 1] == '1' ? ids[i + 1] : kIgnoreIndex;
    }
  }

  int64_t pairs_;
};

using Options = std::map<std::string, std::string, std::less<>>;

/// "key=value,key=value". Throws ConfigError on another form.
Options parse_options(std::string_view set, std::string_view text) {
  Options options;
  while (!text.empty()) {
    const size_t end = std::min(text.find(','), text.size());
    const std::string_view option = text.substr(0, end);
    const size_t equals = option.find('=');
    WEFT_CHECK(equals != std::string_view::npos, ConfigError,
               "builtin:{}: option '{}' is not of the form key=value", set, option);
    options.emplace(option.substr(0, equals), option.substr(equals + 1));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return options;
}

/// Takes a whole number out of the options.
int64_t take_int(std::string_view set, Options& options, std::string_view key, int64_t fallback) {
  const auto found = options.find(key);
  if (found == options.end()) return fallback;
  const std::string& text = found->second;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  WEFT_CHECK(error == std::errc() && end == text.data() + text.size(), ConfigError,
             "builtin:{}: {} must be a whole number, got '{}'", set, key, text);
  options.erase(found);
  return value;
}

BuiltinData make_stories(uint64_t seed, Options& /*options*/) {
  const auto tokenizer = make_tokenizer("bytes");
  return {tokenizer, std::make_shared<StoryTokens>("builtin:stories", tokenizer, seed),
          std::make_shared<StoryTokens>("builtin:stories (held out)", tokenizer, held_out_seed())};
}

BuiltinData make_recall(uint64_t seed, Options& options) {
  const int64_t pairs = take_int("recall", options, "pairs", kDefaultPairs);
  WEFT_CHECK(pairs >= 1 && pairs <= kMaxRecallPairs, ConfigError,
             "builtin:recall: pairs must be 1 to {}, got {}", kMaxRecallPairs, pairs);
  const auto tokenizer =
      make_char_tokenizer(fmt::format("{}{}{}\n", kKeys, kValues, kQuestionMark));
  return {tokenizer, std::make_shared<RecallTokens>("builtin:recall", tokenizer, seed, pairs),
          std::make_shared<RecallTokens>("builtin:recall (held out)", tokenizer, held_out_seed(),
                                         pairs)};
}

struct BuiltinSet {
  std::string_view name;
  std::string_view summary;
  std::string_view options;
  BuiltinData (*make)(uint64_t seed, Options& options);
};

constexpr std::array kSets = {
    BuiltinSet{"stories", "short English-like stories that state facts and later ask for them", "",
               make_stories},
    BuiltinSet{"recall",
               "multi-query associative recall: key-value pairs, then queried keys; loss on the "
               "answers alone",
               "pairs=16", make_recall},
};

}  // namespace

std::vector<BuiltinInfo> builtin_data() {
  std::vector<BuiltinInfo> sets;
  for (const BuiltinSet& set : kSets)
    sets.push_back({std::string(set.name), std::string(set.summary), std::string(set.options)});
  return sets;
}

bool is_builtin(std::string_view data) {
  return data.starts_with(kPrefix);
}

BuiltinData make_builtin(std::string_view data, uint64_t seed) {
  std::string_view name = data;
  if (is_builtin(data)) name.remove_prefix(kPrefix.size());
  const size_t colon = std::min(name.find(':'), name.size());
  const std::string_view options_text = name.substr(std::min(colon + 1, name.size()));
  name = name.substr(0, colon);
  for (const BuiltinSet& set : kSets) {
    if (set.name != name) continue;
    Options options = parse_options(name, options_text);
    BuiltinData made = set.make(seed, options);
    WEFT_CHECK(options.empty(), ConfigError, "builtin:{}: unknown option '{}'; known: {}", name,
               options.begin()->first, set.options.empty() ? "none" : set.options);
    return made;
  }
  std::string known;
  for (const BuiltinSet& set : kSets) known += fmt::format(" {}{}", kPrefix, set.name);
  throw_error<ConfigError>("unknown built-in data '{}'; known are{}", data, known);
}

RecallDocument recall_document(uint64_t seed, uint64_t number, int64_t max_pairs) {
  WEFT_CHECK(max_pairs >= 1 && max_pairs <= kMaxRecallPairs, ConfigError,
             "recall: pairs must be 1 to {}, got {}", kMaxRecallPairs, max_pairs);
  DocumentRandom random(RandomStream::recall, seed, number);
  const auto most = static_cast<size_t>(max_pairs);
  const size_t least = (most + 1) / 2;
  const size_t pairs = least + random.below(most - least + 1);
  std::string keys(kKeys);
  random.shuffle(keys);
  keys.resize(pairs);
  std::map<char, char> values;
  RecallDocument document;
  for (const char key : keys) {
    const char value = random.pick(kValues);
    values[key] = value;
    document.text += {key, value};
  }
  document.text += kQuestionMark;
  document.is_answer.assign(document.text.size(), '0');
  random.shuffle(keys);
  for (const char key : keys) {
    document.text += {key, values[key]};
    document.is_answer += "01";
  }
  document.text += '\n';
  document.is_answer += '0';
  return document;
}

}  // namespace weft::io
