#include "hash.h"

#include <new>

#include <fmt/format.h>
#include <xxhash.h>

namespace weft::io {

uint64_t hash_bytes(const void* data, size_t bytes) {
  return XXH64(data, bytes, 0);
}

std::string to_hex(uint64_t value) {
  return fmt::format("{:016x}", value);
}

void StreamingHash::Deleter::operator()(XXH64_state_s* state) const {
  XXH64_freeState(state);
}

StreamingHash::StreamingHash() : state_(XXH64_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH64_reset(state_.get(), 0);
}

void StreamingHash::update(const void* data, size_t bytes) {
  XXH64_update(state_.get(), data, bytes);
}

uint64_t StreamingHash::digest() const {
  return XXH64_digest(state_.get());
}

}  // namespace weft::io
