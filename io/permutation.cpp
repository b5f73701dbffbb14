#include "weft/io/permutation.h"

#include <algorithm>
#include <bit>

#include "weft/tensor/check.h"

#include "random_streams.h"

namespace weft::io {
namespace {

constexpr uint64_t kRounds = 6;

}  // namespace

Permutation::Permutation(uint64_t size, uint64_t seed, uint64_t stream)
    : size_(size), seed_(seed), stream_(stream) {
  WEFT_CHECK(size >= 1, ConfigError, "permutation: size must be at least 1, got {}", size);
  half_bits_ = std::max(1, (static_cast<int>(std::bit_width(size - 1)) + 1) / 2);
}

uint64_t Permutation::encrypt(uint64_t value) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_;
  uint64_t right = value & mask;
  for (uint64_t round = 0; round < kRounds; ++round) {
    // The halves have at most 32 bits, so round and half share the index.
    const uint64_t word = random_word(seed_, round << 32 | right, stream_);
    const uint64_t next = left ^ (word & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

uint64_t Permutation::permute(uint64_t index) const {
  WEFT_CHECK(index < size_, IndexError, "permutation: index {} is outside 0 to {}", index,
             size_ - 1);
  uint64_t value = encrypt(index);
  while (value >= size_) value = encrypt(value);
  return value;
}

}  // namespace weft::io
