#include "weft/io/needle.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <vector>

#include "weft/tensor/check.h"

#include "document_random.h"

namespace weft::io {
namespace {

using Text = std::string_view;

// All of one length, so that the size of a document does not depend on who has the keys.
constexpr std::array<Text, kMaxNeedleKeys> kPeople = {
    "Anna", "Bert", "Carl", "Dora", "Emma", "Finn", "Gwen", "Hugo",
    "Ines", "Jack", "Kate", "Lars", "Mona", "Nils", "Olga", "Paul"};

constexpr std::array<Text, 16> kQualities = {"red",     "small", "old",   "quiet", "warm", "green",
                                             "distant", "wide",  "heavy", "young", "blue", "narrow",
                                             "bright",  "cold",  "round", "pale"};
constexpr std::array<Text, 20> kThings = {
    "garden", "river", "house", "cloud", "tree", "street", "ship",  "hill",  "window", "field",
    "bird",   "table", "tower", "road",  "lamp", "bridge", "stone", "horse", "market", "song"};
constexpr std::array<Text, 12> kVerbs = {"stands near",     "belongs to",    "looks like",
                                         "lies behind",     "reminds us of", "is older than",
                                         "was made for",    "is far from",   "comes after",
                                         "was seen beside", "is not",        "leads to"};

constexpr int64_t kNameLength = 4;
constexpr Text kKeyOf = "The key of ";
constexpr Text kIs = " is ";

std::string filler_sentence(DocumentRandom& random) {
  return fmt::format("The {} {} {} the {} {}. ", random.pick(kQualities), random.pick(kThings),
                     random.pick(kVerbs), random.pick(kQualities), random.pick(kThings));
}

int64_t sentence_length(int64_t digits) {
  constexpr int64_t kStop = 2;  // a stop and a blank, or what is behind an answer
  return static_cast<int64_t>(kKeyOf.size() + kIs.size()) + kNameLength + digits + kStop;
}

int64_t asked_of(const NeedleOptions& options) {
  return options.asked > 0 ? options.asked : options.keys;
}

struct Key {
  Text person;
  std::string number;
};

}  // namespace

void validate(const NeedleOptions& options) {
  WEFT_CHECK(options.digits >= 1 && options.digits <= 16, ConfigError,
             "needle: digits must be 1 to 16, got {}", options.digits);
  WEFT_CHECK(options.keys >= 1 && options.keys <= kMaxNeedleKeys, ConfigError,
             "needle: keys must be 1 to {}, got {}", kMaxNeedleKeys, options.keys);
  WEFT_CHECK(options.asked >= 0 && options.asked <= options.keys, ConfigError,
             "needle: asked must be 1 to {} (the number of keys), or 0 for all, got {}",
             options.keys, options.asked);
  WEFT_CHECK(options.depth == -1 || (options.depth >= 0 && options.depth <= 100), ConfigError,
             "needle: depth must be 0 to 100 (percent), or -1 for any, got {}", options.depth);
  WEFT_CHECK(options.length == 0 || options.length >= shortest_needle_document(options),
             ConfigError, "needle: length must be 0 (any) or at least {}, got {}",
             shortest_needle_document(options), options.length);
}

int64_t shortest_needle_document(const NeedleOptions& options) {
  // Each sentence of a key and each question is as long; a line feed stands before the questions.
  return (options.keys + asked_of(options)) * sentence_length(options.digits);
}

NeedleDocument needle_document(uint64_t seed, uint64_t number, int64_t length,
                               const NeedleOptions& options) {
  validate(options);
  const int64_t shortest = shortest_needle_document(options);
  WEFT_CHECK(length >= shortest, ConfigError,
             "needle: {} key(s) of {} digits need documents of at least {} characters, got {}",
             options.keys, options.digits, shortest, length);
  DocumentRandom random(RandomStream::needle, seed, number);
  std::vector<Text> people(kPeople.begin(), kPeople.end());
  random.shuffle(people);
  std::vector<Key> keys;
  for (int64_t i = 0; i < options.keys; ++i) {
    Key key{people[static_cast<size_t>(i)], {}};
    for (int64_t d = 0; d < options.digits; ++d)
      key.number += static_cast<char>('0' + random.below(10));
    keys.push_back(std::move(key));
  }

  // Filler, cut at its front to fit, and the places between its sentences.
  const auto wanted = static_cast<size_t>(length - shortest);
  std::vector<std::string> sentences;
  size_t total = 0;
  while (total < wanted) {
    sentences.push_back(filler_sentence(random));
    total += sentences.back().size();
  }
  if (!sentences.empty()) sentences.front().erase(0, total - wanted);
  std::vector<size_t> places = {0};
  for (const std::string& sentence : sentences) places.push_back(places.back() + sentence.size());

  std::vector<std::string> before(places.size());  // key sentences in front of each sentence
  for (size_t i = 0; i < keys.size(); ++i) {
    size_t place = random.below(places.size());
    if (i == 0 && options.depth >= 0) {
      const auto target = options.depth / 100 * static_cast<double>(places.back());
      const auto distance = [&](size_t at) { return std::abs(static_cast<double>(at) - target); };
      place = static_cast<size_t>(
          std::min_element(places.begin(), places.end(),
                           [&](size_t a, size_t b) { return distance(a) < distance(b); }) -
          places.begin());
    }
    before[place] += fmt::format("{}{}{}{}. ", kKeyOf, keys[i].person, kIs, keys[i].number);
  }
  NeedleDocument document;
  for (size_t i = 0; i < places.size(); ++i) {
    document.text += before[i];
    if (i < sentences.size()) document.text += sentences[i];
  }
  document.is_answer.assign(document.text.size(), '0');

  std::vector<Key> asked(keys.begin(), keys.begin() + asked_of(options));
  random.shuffle(asked);
  for (const Key& key : asked) {
    document.text += fmt::format("\n{}{}{}{}", kKeyOf, key.person, kIs, key.number);
    document.is_answer.resize(document.text.size() - key.number.size(), '0');
    document.is_answer.resize(document.text.size(), '1');
  }
  // Every question is a character shorter than its share.
  document.text.append(asked.size(), '\n');
  document.is_answer.append(asked.size(), '0');
  return document;
}

}  // namespace weft::io
