#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

struct XXH64_state_s;

namespace weft::io {

/// xxHash64 with seed 0.
uint64_t hash_bytes(const void* data, size_t bytes);
inline uint64_t hash_bytes(std::string_view text) {
  return hash_bytes(text.data(), text.size());
}

/// 16 lower-case hexadecimal digits.
std::string to_hex(uint64_t value);

/// xxHash64 of bytes that come in pieces.
class StreamingHash {
 public:
  StreamingHash();

  void update(const void* data, size_t bytes);
  uint64_t digest() const;

 private:
  struct Deleter {
    void operator()(XXH64_state_s* state) const;
  };
  std::unique_ptr<XXH64_state_s, Deleter> state_;
};

}  // namespace weft::io
