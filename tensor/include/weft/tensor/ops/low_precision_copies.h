#pragma once

#include <memory>
#include <span>
#include <vector>

#include "weft/tensor/tensor.h"

namespace weft {

struct LowPrecisionEntry;

/// What low_precision_copy() keeps of weights that are about to be changed in place, for an
/// optimizer that writes weights and copies in one pass:
///
///   LowPrecisionCopies copies(weights);
///   ...  // new values for weights[i], and the same values converted for all of copies.of(i)
///   copies.mark_written();
///
/// low_precision_copy() then gives the copies as they are. A copy may be of one weight, of its
/// transpose, or of a tensor that several weights are slices of.
class LowPrecisionCopies {
 public:
  LowPrecisionCopies() = default;
  /// `weights` are dense and of one type each. Copies that are out of date already are left to
  /// low_precision_copy(), and so are those that hold only parts of a weight or of other layouts.
  explicit LowPrecisionCopies(std::span<const Tensor> weights);

  /// Where weight number `index` is kept: dense tensors of its shape. They share the elements of
  /// the copies.
  std::span<const Tensor> of(size_t index) const { return slices_[index]; }

  /// Makes the change known: grows the versions of weights and copies, and takes these copies, and
  /// no others, as those of the new versions.
  void mark_written();

  /// Whether both are of the same weights and copies.
  bool operator==(const LowPrecisionCopies& other) const {
    return storages_ == other.storages_ && entries_ == other.entries_;
  }

  /// To be called before a replay of a graph in which one of `captured` was written; which one is
  /// not known. Converts weights again that something else has changed since, and makes the coming
  /// change known as mark_written() does.
  static void mark_replayed(std::span<const LowPrecisionCopies> captured);

 private:
  using Entry = std::shared_ptr<LowPrecisionEntry>;

  std::vector<std::vector<Tensor>> slices_;         // of each weight
  std::vector<std::shared_ptr<Storage>> storages_;  // of the weights, each once
  std::vector<Entry> entries_;                      // right after the change, by address
};

}  // namespace weft
