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
constexpr int kDocumentBits = 24;  // documents of one sequence

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

  /// Inputs and, where the next character is an answer, targets. One character must be one token.
  void fill_scored(const std::string& text, const std::string& is_answer, std::span<int32_t> inputs,
                   std::span<int32_t> targets) const {
    const std::vector<int32_t> ids = tokenizer().encode(text);
    for (size_t i = 0; i < inputs.size(); ++i) {
      inputs[i] = ids[i];
      targets[i] = is_answer[i + 1] == '1' ? ids[i + 1] : kIgnoreIndex;
    }
  }

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

class RecallTokens final : public GeneratedTokens {
 public:
  RecallTokens(std::string name, std::shared_ptr<const Tokenizer> tokenizer, uint64_t seed,
               const RecallOptions& options)
      : GeneratedTokens(std::move(name), std::move(tokenizer), seed), options_(options) {}

 private:
  void fill(uint64_t document, std::span<int32_t> inputs,
            std::span<int32_t> targets) const override {
    const auto length = static_cast<int64_t>(inputs.size()) + 1;
    RecallOptions options = options_;
    DocumentRandom random(RandomStream::recall, ~seed(), document);
    if (static_cast<int64_t>(random.below(100)) < options.easy) options.gap = options.spread = 0;
    const int64_t filler = options.gap + std::max<int64_t>(0, options.spread);
    options.pairs = std::min(options.pairs, (length - filler - recall_length(0)) / 4);
    WEFT_CHECK(options.pairs >= 1, ConfigError, "{}: sequences need at least {} tokens, got {}",
               name(), recall_length(1, filler) - 1, inputs.size());
    RecallDocument sequence;
    for (;; ++document) {
      const RecallDocument next = recall_document(seed(), document, options, length);
      if (sequence.length() + next.length() > length) break;
      sequence.text += next.text;
      sequence.is_answer += next.is_answer;
    }
    sequence.text.append(static_cast<size_t>(length - sequence.length()), '\n');
    sequence.is_answer.resize(static_cast<size_t>(length), '0');
    fill_scored(sequence.text, sequence.is_answer, inputs, targets);
  }

  RecallOptions options_;
};

class NeedleTokens final : public GeneratedTokens {
 public:
  NeedleTokens(std::string name, std::shared_ptr<const Tokenizer> tokenizer, uint64_t seed,
               const NeedleOptions& options)
      : GeneratedTokens(std::move(name), std::move(tokenizer), seed), options_(options) {}

 private:
  void fill(uint64_t document, std::span<int32_t> inputs,
            std::span<int32_t> targets) const override {
    const auto room = static_cast<int64_t>(inputs.size()) + 1;
    const int64_t shortest = std::max(options_.length, shortest_needle_document(options_));
    WEFT_CHECK(room >= shortest, ConfigError, "{}: sequences need at least {} tokens, got {}",
               name(), shortest - 1, inputs.size());
    DocumentRandom random(RandomStream::needle, ~seed(), document);
    NeedleDocument sequence;
    for (;; ++document) {
      const int64_t left = room - static_cast<int64_t>(sequence.text.size());
      if (left < shortest) break;
      const int64_t length =
          options_.length > 0
              ? options_.length
              : shortest +
                    static_cast<int64_t>(random.below(static_cast<size_t>(left - shortest + 1)));
      const NeedleDocument next = needle_document(seed(), document, length, options_);
      sequence.text += next.text;
      sequence.is_answer += next.is_answer;
    }
    sequence.text.resize(static_cast<size_t>(room), '\n');
    sequence.is_answer.resize(static_cast<size_t>(room), '0');
    fill_scored(sequence.text, sequence.is_answer, inputs, targets);
  }

  NeedleOptions options_;
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

/// "builtin:NAME:options" or "NAME:options" -> NAME, options.
std::pair<std::string_view, std::string_view> split(std::string_view data) {
  if (is_builtin(data)) data.remove_prefix(kPrefix.size());
  const size_t colon = std::min(data.find(':'), data.size());
  return {data.substr(0, colon), data.substr(std::min(colon + 1, data.size()))};
}

BuiltinData make_stories(uint64_t seed, Options& /*options*/) {
  const auto tokenizer = make_tokenizer("bytes");
  return {tokenizer, std::make_shared<StoryTokens>("builtin:stories", tokenizer, seed),
          std::make_shared<StoryTokens>("builtin:stories (held out)", tokenizer, held_out_seed())};
}

RecallOptions take_recall_options(Options& options) {
  RecallOptions recall;
  recall.pairs = take_int("recall", options, "pairs", recall.pairs);
  recall.gap = take_int("recall", options, "gap", recall.gap);
  recall.spread = take_int("recall", options, "spread", recall.spread);
  recall.easy = take_int("recall", options, "easy", recall.easy);
  recall.keys = take_int("recall", options, "keys", std::max(recall.keys, recall.pairs));
  validate(recall);
  return recall;
}

NeedleOptions take_needle_options(Options& options) {
  NeedleOptions needle;
  needle.digits = take_int("needle", options, "digits", needle.digits);
  needle.keys = take_int("needle", options, "keys", needle.keys);
  needle.asked = take_int("needle", options, "asked", needle.asked);
  needle.depth = static_cast<double>(take_int("needle", options, "depth", -1));
  needle.length = take_int("needle", options, "length", 0);
  validate(needle);
  return needle;
}

BuiltinData make_recall(uint64_t seed, Options& options) {
  const RecallOptions recall = take_recall_options(options);
  const auto tokenizer = make_char_tokenizer(recall_alphabet(recall));
  RecallOptions held_out = recall;
  held_out.easy = 0;
  return {tokenizer, std::make_shared<RecallTokens>("builtin:recall", tokenizer, seed, recall),
          std::make_shared<RecallTokens>("builtin:recall (held out)", tokenizer, held_out_seed(),
                                         held_out)};
}

BuiltinData make_needle(uint64_t seed, Options& options) {
  const NeedleOptions needle = take_needle_options(options);
  const auto tokenizer = make_tokenizer("bytes");
  return {tokenizer, std::make_shared<NeedleTokens>("builtin:needle", tokenizer, seed, needle),
          std::make_shared<NeedleTokens>("builtin:needle (held out)", tokenizer, held_out_seed(),
                                         needle)};
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
               "pairs=16, gap=0, spread=0, easy=0, keys=52", make_recall},
    BuiltinSet{"needle",
               "passkeys hidden in filler text and asked for at its end; loss on the answers alone",
               "digits=5, keys=1, asked=0, depth=-1, length=0", make_needle},
};

void check_all_taken(std::string_view set, const Options& options, std::string_view known) {
  WEFT_CHECK(options.empty(), ConfigError, "builtin:{}: unknown option '{}'; known: {}", set,
             options.begin()->first, known.empty() ? "none" : known);
}

std::string_view options_of(std::string_view name) {
  for (const BuiltinSet& set : kSets) {
    if (set.name == name) return set.options;
  }
  return {};
}

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
  const auto [name, options_text] = split(data);
  for (const BuiltinSet& set : kSets) {
    if (set.name != name) continue;
    Options options = parse_options(name, options_text);
    BuiltinData made = set.make(seed, options);
    check_all_taken(name, options, set.options);
    return made;
  }
  std::string known;
  for (const BuiltinSet& set : kSets) known += fmt::format(" {}{}", kPrefix, set.name);
  throw_error<ConfigError>("unknown built-in data '{}'; known are{}", data, known);
}

std::string builtin_name(std::string_view data) {
  return is_builtin(data) ? std::string(split(data).first) : std::string();
}

RecallOptions parse_recall_options(std::string_view data) {
  const auto [name, text] = split(data);
  Options options = parse_options(name, text);
  const RecallOptions recall = take_recall_options(options);
  check_all_taken(name, options, options_of("recall"));
  return recall;
}

NeedleOptions parse_needle_options(std::string_view data) {
  const auto [name, text] = split(data);
  Options options = parse_options(name, text);
  const NeedleOptions needle = take_needle_options(options);
  check_all_taken(name, options, options_of("needle"));
  return needle;
}

uint64_t held_out_seed() {
  return random_word(0, 0, subsequence(RandomStream::held_out, 0));
}

}  // namespace weft::io
