#pragma once

#include <cstdint>

namespace weft::io {

/// A random order of 0 ... size-1 that needs no memory: permute(i) is a pure function of (seed,
/// stream, size, i). A Feistel network of Philox rounds over the next even power of two, walked
/// until it lands inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
class Permutation {
 public:
  /// 1 <= size; throws ConfigError.
  Permutation(uint64_t size, uint64_t seed, uint64_t stream);
  /// 0 <= index < size; throws IndexError.
  uint64_t permute(uint64_t index) const;

 private:
  uint64_t encrypt(uint64_t value) const;

  uint64_t size_;
  uint64_t seed_;
  uint64_t stream_;
  int half_bits_ = 1;
};

}  // namespace weft::io
