#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "random_streams.h"

namespace weft::io {

/// Random choices inside one generated document: a stream of its own for each (seed, number).
class DocumentRandom {
 public:
  DocumentRandom(RandomStream stream, uint64_t seed, uint64_t number)
      : stream_(stream), key_(random_word(seed, number, subsequence(stream, 0))) {}

  /// 0 ... bound-1.
  size_t below(size_t bound) {
    return scale_to(random_word(key_, drawn_++, subsequence(stream_, 1)), bound);
  }
  bool one_in(size_t odds) { return below(odds) == 0; }
  template <class Container>
  const auto& pick(const Container& choices) {
    return choices[below(choices.size())];
  }
  template <class Container>
  void shuffle(Container& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  RandomStream stream_;
  uint64_t key_;
  uint64_t drawn_ = 0;
};

}  // namespace weft::io
