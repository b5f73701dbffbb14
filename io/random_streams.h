#pragma once

#include <array>
#include <cstdint>

#include "weft/tensor/generator.h"

namespace weft::io {

/// Separates the uses of one seed: the upper half of Philox's subsequence. The lower half counts
/// epochs or documents. 0 belongs to weft::Generator.
enum class RandomStream : uint64_t {
  window_order = 0x0d474100,
  window_phase = 0x0d474101,
  stories = 0x0d474110,
  recall = 0x0d474111,
  needle = 0x0d474113,
  held_out = 0x0d474112,
};

constexpr uint64_t subsequence(RandomStream stream, uint64_t number) {
  return static_cast<uint64_t>(stream) << 32 ^ number;
}

/// A random 64-bit word.
inline uint64_t random_word(uint64_t seed, uint64_t index, uint64_t subsequence) {
  const std::array<uint32_t, 4> words = philox4x32(seed, index, subsequence);
  return static_cast<uint64_t>(words[0]) << 32 | words[1];
}

/// Scales a random word to 0 ... bound-1.
inline uint64_t scale_to(uint64_t word, uint64_t bound) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(word) * bound) >> 64);
}

}  // namespace weft::io
