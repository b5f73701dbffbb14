#include "recorded_draws.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/pinned.h"

namespace weft {

RecordedDraws::RecordedDraws(const std::vector<Generator*>& generators, Device device) {
  for (Generator* const generator : generators) {
    WEFT_CHECK(generator != nullptr, ConfigError, "graph: a generator is a null pointer");
    const bool is_known = std::any_of(draws_.begin(), draws_.end(), [&](const Draws& draws) {
      return draws.generator == generator;
    });
    if (!is_known) draws_.push_back({.generator = generator, .advance = {}});
  }
  if (draws_.empty()) return;
  table_ = empty({std::ssize(draws_)}, DType::i64, device);
  const auto* place = static_cast<const uint64_t*>(table_.raw_data());
  for (Draws& d : draws_) d.advance = {table_.storage(), place++};
}

void RecordedDraws::record(const std::function<void()>& work) {
  struct Restore {
    const std::vector<Draws>& draws;
    ~Restore() {
      for (const Draws& d : draws) d.generator->set_state(d.start);
    }
  };
  for (Draws& d : draws_) d.start = d.generator->state();
  const Restore restore{draws_};
  for (const Draws& d : draws_) d.generator->set_state({d.start.seed, d.start.offset, d.advance});
  work();
  for (Draws& d : draws_) {
    const GeneratorState end = d.generator->state();
    WEFT_CHECK(end.seed == d.start.seed && end.advance == d.advance, CaptureError,
               "graph: the work puts a generator into a state from outside, of seed {} and offset "
               "{}, from which every replay would draw the same",
               end.seed, end.offset);
    d.blocks = end.offset - d.start.offset;
  }
}

void RecordedDraws::prepare_replay() {
  std::vector<uint64_t> advances;
  for (const Draws& d : draws_) {
    const GeneratorState now = d.generator->state();
    WEFT_CHECK(now.seed == d.start.seed, CaptureError,
               "graph: replayed with a generator of seed {}, captured with seed {}", now.seed,
               d.start.seed);
    advances.push_back(now.offset - d.start.offset);
  }
  if (advances != written_) {  // else no generator has moved
    // Page-locked memory is used again only when copies from it are done.
    const Tensor rows = empty_pinned(table_.shape(), DType::i64);
    std::copy(advances.begin(), advances.end(), static_cast<uint64_t*>(rows.raw_data()));
    table_.copy_(rows);
    written_ = std::move(advances);
  }
  for (const Draws& d : draws_) d.generator->reserve(d.blocks);
}

}  // namespace weft
