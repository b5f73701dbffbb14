#pragma once

#include <array>
#include <cstdint>
#include <memory>

namespace weft {

/// State of a random stream: what a checkpoint stores is its seed and offset.
struct GeneratorState {
  uint64_t seed = 0;
  uint64_t offset = 0;  ///< blocks of four 32-bit words used so far
  /// In work that a Graph captures: where its replays find, on the device, how many blocks to add
  /// to the offset. Null elsewhere.
  std::shared_ptr<const uint64_t> advance{};
};

/// Philox4x32-10, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1,
/// 2, 3", SC 2011): word block i of a seed is a pure function of (seed, i), so that any thread or
/// device makes any part of the stream. An op that draws n elements reserves a range of blocks and
/// computes element i from its own block.
class Generator {
 public:
  explicit Generator(uint64_t seed = 0) : state_{seed, 0} {}

  uint64_t seed() const { return state_.seed; }
  GeneratorState state() const { return state_; }
  void set_state(GeneratorState state) { state_ = state; }
  /// Takes `blocks` blocks from the stream: returns the state before and advances.
  GeneratorState reserve(uint64_t blocks) {
    GeneratorState before = state_;
    state_.offset += blocks;
    return before;
  }

 private:
  GeneratorState state_;
};

/// The four words of block `index` of stream `seed`; `subsequence` separates uses of one seed.
constexpr std::array<uint32_t, 4> philox4x32(uint64_t seed, uint64_t index,
                                             uint64_t subsequence = 0) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53u;
  constexpr uint32_t kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u;
  constexpr uint32_t kWeyl1 = 0xBB67AE85u;
  std::array<uint32_t, 4> counter = {
      static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
      static_cast<uint32_t>(subsequence), static_cast<uint32_t>(subsequence >> 32)};
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * counter[0];
    const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * counter[2];
    counter = {
        static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
        static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

}  // namespace weft
