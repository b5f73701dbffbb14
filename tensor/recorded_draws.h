#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "weft/tensor/generator.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// The random draws of work that is recorded once and replayed. A launch keeps the seed and the
/// offset with which it was recorded. How far the stream has moved on since then it reads from a
/// table on the device, whose address stays and which is written before each replay.
class RecordedDraws {
 public:
  /// The streams that the work draws from; they must live as long as the work is replayed. Throws
  /// ConfigError for a null pointer.
  RecordedDraws(const std::vector<Generator*>& generators, Device device);

  /// Runs `work`, in which the states of the generators name their place in the table. Afterwards
  /// the generators are as before, since nothing was drawn. Throws CaptureError where the work has
  /// put a generator into a state of its own choice, and what `work` throws.
  void record(const std::function<void()>& work);

  /// To be called before each replay, on its stream: lets the replay draw from the present states
  /// of the generators, and moves them on by as much as the work draws. Throws CaptureError where a
  /// generator has another seed than at the recording.
  void prepare_replay();

 private:
  struct Draws {
    Generator* generator;
    std::shared_ptr<const uint64_t> advance;  // its place in the table
    GeneratorState start{};                   // at the recording
    uint64_t blocks = 0;                      // that the work takes
  };

  std::vector<Draws> draws_;
  Tensor table_;                   // i64 [generators]: blocks to add to the offsets of launches
  std::vector<uint64_t> written_;  // to the table
};

}  // namespace weft
