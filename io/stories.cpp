// The grammar of builtin:stories. A story is a small world (people, things, places) whose state
// changes sentence by sentence; questions are asked of that state.
#include <array>
#include <set>
#include <string>
#include <vector>

#include "weft/io/builtin_data.h"

#include "document_random.h"

namespace weft::io {
namespace {

using Text = std::string_view;

struct Name {
  Text name;
  bool female;
};

struct Place {
  Text name;
  Text preposition;
};

constexpr std::array kNames = {
    Name{"Anna", true},  Name{"Tom", false},  Name{"Mia", true},   Name{"Ben", false},
    Name{"Lucy", true},  Name{"Jack", false}, Name{"Sara", true},  Name{"Max", false},
    Name{"Ella", true},  Name{"Sam", false},  Name{"Rose", true},  Name{"Paul", false},
    Name{"Nora", true},  Name{"Leo", false},  Name{"Ivy", true},   Name{"Hugo", false},
    Name{"Clara", true}, Name{"Finn", false}, Name{"Grace", true}, Name{"Oscar", false},
    Name{"Ruth", true},  Name{"Karl", false}, Name{"Vera", true},  Name{"Peter", false}};

constexpr std::array kPlaces = {
    Place{"barn", "in"},    Place{"kitchen", "in"}, Place{"garden", "in"},  Place{"cellar", "in"},
    Place{"attic", "in"},   Place{"tower", "in"},   Place{"forest", "in"},  Place{"school", "at"},
    Place{"market", "at"},  Place{"harbour", "at"}, Place{"station", "at"}, Place{"mill", "at"},
    Place{"hill", "on"},    Place{"bridge", "on"},  Place{"roof", "on"},    Place{"island", "on"},
    Place{"library", "in"}, Place{"stable", "in"},  Place{"cave", "in"},    Place{"bakery", "at"},
    Place{"meadow", "in"},  Place{"church", "at"},  Place{"ship", "on"},    Place{"beach", "on"}};

constexpr std::array<Text, 28> kThings = {
    "key",  "cup",    "book",   "ball",  "lamp",   "hat",  "coin",   "rope", "box",  "knife",
    "ring", "basket", "letter", "stone", "mirror", "drum", "candle", "bell", "boot", "map",
    "kite", "spoon",  "flute",  "clock", "scarf",  "jar",  "brush",  "shell"};

constexpr std::array<Text, 14> kQualities = {"red",   "blue",  "green", "yellow", "white",
                                             "black", "small", "big",   "old",    "new",
                                             "round", "heavy", "shiny", "broken"};

// # and % are people, * a preposition and place, & a place.
constexpr std::array<Text, 12> kOpenings = {
    "One morning, # and % met *.",
    "It was a cold day in winter when # and % came to the village.",
    "Once upon a time, # lived with % near the &.",
    "Early in the spring, # and % had a plan.",
    "On Sunday # woke up before %.",
    "There was rain all night, but # and % did not mind.",
    "# and % were good friends.",
    "A long time ago # went to look for % *.",
    "The holidays had begun, and # was glad to see %.",
    "It was late in the evening, and # could not find %.",
    "Every summer # came to visit %.",
    "\"Today we have a lot to do,\" said # to %."};

// ^ is he or she, ~ his or her.
constexpr std::array<Text, 32> kAsides = {"The sun was shining.",
                                          "It began to rain.",
                                          "A cold wind came from the north.",
                                          "The birds were singing in the trees.",
                                          "Far away a dog was barking.",
                                          "Nobody said a word.",
                                          "It was very quiet.",
                                          "The clouds were white and slow.",
                                          "# was hungry and ate an apple.",
                                          "# sang a song while ^ worked.",
                                          "# felt happy that day.",
                                          "# was tired, so ^ sat down for a while.",
                                          "# laughed and clapped ~ hands.",
                                          "# told a long story about ~ grandmother.",
                                          "# looked at the sky and waited.",
                                          "# counted to ten and opened ~ eyes.",
                                          "# wanted to go home, but ^ stayed.",
                                          "\"What a fine day,\" said #.",
                                          "\"I am not afraid,\" said #.",
                                          "\"Please be careful,\" # whispered.",
                                          "\"We should hurry,\" said #, \"or we will be late.\"",
                                          "\"I have never seen such a thing,\" # answered.",
                                          "# asked for some bread and cheese.",
                                          "# saw a fox, and the fox saw #.",
                                          "# had lost ~ way more than once.",
                                          "Then the moon came out from behind the clouds.",
                                          "After that there was soup for everyone.",
                                          "# smiled, because ^ knew the answer.",
                                          "An old man walked by and wished them luck.",
                                          "# had a dream about the sea.",
                                          "The cat slept near the fire and did not move.",
                                          "# promised to write to ~ brother soon."};

// @ is the thing.
constexpr std::array<Text, 7> kPut = {"# put the @ *.",
                                      "# left the @ *.",
                                      "# hid the @ * and told nobody.",
                                      "The @ was * now, because # had taken it there.",
                                      "# went out and placed the @ *.",
                                      "# dropped the @ *.",
                                      "\"I will keep the @ *,\" said #, and so it was done."};
constexpr std::array<Text, 4> kTake = {"# found the @ and picked it up.", "# took the @.",
                                       "# wanted the @, so ^ took it.",
                                       "\"The @ is mine,\" said #, and ^ carried it away."};
constexpr std::array<Text, 10> kTimes = {"Then",           "After lunch",
                                         "A little later", "The next day",
                                         "Before long",    "In the afternoon",
                                         "Soon",           "When it was dark",
                                         "An hour later",  "While nobody was looking"};
constexpr std::array<Text, 5> kGive = {
    "# gave the @ to %.", "# handed the @ to %.", "% asked for the @, and # gave it to ~ friend %.",
    "# lent % the @.", "\"Take the @,\" # said to %, and % took it."};
constexpr std::array<Text, 6> kGo = {"# went away and was soon *.",
                                     "# walked for an hour. Now ^ was *.",
                                     "Later # was * again.",
                                     "# ran off to look around *.",
                                     "# decided to spend some time *.",
                                     "\"You will find me *,\" said #, and went there."};

struct Person {
  Name name;
  int place = -1;  ///< not known yet
};

struct Thing {
  Text quality;
  Text noun;
  int place = -1;   ///< where it lies, or
  int holder = -1;  ///< who has it; both -1: not mentioned yet
};

class Storyteller {
 public:
  Storyteller(uint64_t seed, uint64_t number) : random_(RandomStream::stories, seed, number) {}

  std::string tell() {
    cast();
    open();
    // Most stories are short, some are long.
    size_t events = 2 + random_.below(6);
    while (random_.one_in(2) && events < 40) events += random_.below(8);
    for (size_t event = 0; event < events; ++event) {
      happen();
      while (random_.one_in(2)) aside();
      if (random_.one_in(6)) ask();
    }
    text_.back() = '\n';
    for (size_t questions = 1 + random_.below(3); questions > 0; --questions) ask();
    text_ += '\n';
    return std::move(text_);
  }

 private:
  /// Chooses who and what the story has.
  void cast() {
    std::array names = kNames;
    random_.shuffle(names);
    for (size_t i = 0, count = 2 + random_.below(3); i < count; ++i) people_.push_back({names[i]});
    std::array things = kThings;
    random_.shuffle(things);
    for (size_t i = 0, count = 2 + random_.below(4); i < count; ++i)
      things_.push_back({random_.pick(kQualities), things[i]});
    places_ = kPlaces;
    random_.shuffle(places_);
    place_count_ = 3 + random_.below(6);
  }

  void open() { say(random_.pick(kOpenings), people_[0], nullptr, &places_[0], &people_[1]); }

  /// Writes a sentence with its marks replaced.
  void say(Text form, const Person& person, const Thing* thing = nullptr,
           const Place* place = nullptr, const Person* other = nullptr) {
    for (const char c : form) {
      switch (c) {
        case '#':
          text_ += person.name.name;
          break;
        case '%':
          text_ += other->name.name;
          break;
        case '^':
          text_ += person.name.female ? "she" : "he";
          break;
        case '~':
          text_ += person.name.female ? "her" : "his";
          break;
        case '&':
          text_ += place->name;
          break;
        case '@':
          (text_ += thing->quality) += ' ';
          text_ += thing->noun;
          break;
        case '*':
          ((text_ += place->preposition) += " the ") += place->name;
          break;
        default:
          text_ += c;
      }
    }
    text_ += ' ';
  }

  /// say() for an event; now and then with a time before it.
  void report(Text form, const Person& person, const Thing* thing, const Place* place = nullptr,
              const Person* other = nullptr) {
    if (form.starts_with('#') && random_.one_in(3)) (text_ += random_.pick(kTimes)) += ' ';
    say(form, person, thing, place, other);
  }

  /// A sentence that states no fact; each form once before any comes again.
  void aside() {
    if (next_aside_ == asides_.size()) next_aside_ = 0;
    if (next_aside_ == 0) random_.shuffle(asides_);
    say(asides_[next_aside_++], people_[random_.below(people_.size())]);
  }

  /// Something that changes the world.
  void happen() {
    const auto who = random_.below(people_.size());
    Person& person = people_[who];
    Thing& thing = things_[random_.below(things_.size())];
    const auto where = random_.below(place_count_);
    if (random_.one_in(4)) {
      person.place = static_cast<int>(where);
      report(random_.pick(kGo), person, nullptr, &places_[where]);
    } else if (thing.holder < 0 && (thing.place < 0 || random_.one_in(2))) {
      if (thing.place >= 0 && random_.one_in(2)) {
        thing.place = -1;
        thing.holder = static_cast<int>(who);
        report(random_.pick(kTake), person, &thing);
      } else {
        put(person, thing, where);
      }
    } else if (thing.holder >= 0) {
      const auto holder = static_cast<size_t>(thing.holder);
      if (random_.one_in(2)) {
        const auto other = (holder + 1 + random_.below(people_.size() - 1)) % people_.size();
        thing.holder = static_cast<int>(other);
        report(random_.pick(kGive), people_[holder], &thing, nullptr, &people_[other]);
      } else {
        put(people_[holder], thing, where);
      }
    } else {
      put(person, thing, where);
    }
  }

  void put(const Person& person, Thing& thing, size_t where) {
    thing.holder = -1;
    thing.place = static_cast<int>(where);
    report(random_.pick(kPut), person, &thing, &places_[where]);
  }

  /// Asks for a fact that the story stated, on a line of its own.
  void ask() {
    std::vector<std::string> questions;
    for (const Thing& thing : things_) {
      const std::string phrase = std::string(thing.quality) + ' ' + std::string(thing.noun);
      if (thing.place >= 0)
        questions.push_back("Where is the " + phrase + "? " + place_name(thing.place));
      if (thing.holder >= 0)
        questions.push_back("Who has the " + phrase + "? " + person_name(thing.holder));
      if (thing.place >= 0 || thing.holder >= 0)
        questions.push_back("What kind of " + std::string(thing.noun) + " is it? " +
                            std::string(thing.quality));
    }
    for (const Person& person : people_) {
      if (person.place >= 0)
        questions.push_back("Where is " + std::string(person.name.name) + "? " +
                            place_name(person.place));
    }
    std::erase_if(questions, [this](const std::string& q) { return asked_.contains(q); });
    if (questions.empty()) return;
    if (text_.back() == ' ') text_.back() = '\n';
    const std::string& question = random_.pick(questions);
    (text_ += question) += '\n';
    asked_.insert(question);
  }

  std::string place_name(int place) const {
    return std::string(places_[static_cast<size_t>(place)].name);
  }
  std::string person_name(int person) const {
    return std::string(people_[static_cast<size_t>(person)].name.name);
  }

  DocumentRandom random_;
  std::vector<Person> people_;
  std::vector<Thing> things_;
  std::array<Place, kPlaces.size()> places_{};
  size_t place_count_ = 0;
  std::array<Text, kAsides.size()> asides_ = kAsides;
  size_t next_aside_ = 0;
  std::set<std::string> asked_;
  std::string text_;
};

}  // namespace

std::string story(uint64_t seed, uint64_t number) {
  return Storyteller(seed, number).tell();
}

}  // namespace weft::io
