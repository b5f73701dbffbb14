#include "seal.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "weft/tensor/check.h"

#include "file_descriptor.h"
#include "hash.h"

namespace weft::io {
namespace {

static_assert(std::endian::native == std::endian::little, "file formats are written as they lie");

constexpr std::array<char, 8> kMagic = {'W', 'E', 'F', 'T', 'S', 'E', 'A', 'L'};
constexpr uint64_t kVersion = 1;

struct Seal {
  std::array<char, 8> magic = kMagic;
  uint64_t version = kVersion;
  uint64_t content_bytes = 0;
  uint64_t content_hash = 0;
  std::array<char, kSealBytes - 40> unused{};
  uint64_t seal_hash = 0;  // of all before it

  uint64_t hash_of_fields() const { return hash_bytes(this, kSealBytes - sizeof seal_hash); }
};
static_assert(sizeof(Seal) == kSealBytes);

/// Hash and length of what follows the seal. Returns 0 or an errno.
int hash_content(int descriptor, uint64_t& hash, uint64_t& bytes) {
  std::vector<char> buffer(size_t{1} << 20);
  StreamingHash state;
  bytes = 0;
  for (;;) {
    const int64_t got =
        read_at(descriptor, buffer.data(), buffer.size(), static_cast<int64_t>(kSealBytes + bytes));
    if (got < 0) return static_cast<int>(-got);
    if (got == 0) break;
    state.update(buffer.data(), static_cast<size_t>(got));
    bytes += static_cast<uint64_t>(got);
  }
  hash = state.digest();
  return 0;
}

}  // namespace

int write_seal(int descriptor) {
  Seal seal;
  if (const int error = hash_content(descriptor, seal.content_hash, seal.content_bytes))
    return error;
  seal.seal_hash = seal.hash_of_fields();
  return write_fully(descriptor, &seal, sizeof seal, 0);
}

bool has_seal(int descriptor) {
  std::array<char, kMagic.size()> magic{};
  return read_at(descriptor, magic.data(), magic.size(), 0) == static_cast<int64_t>(magic.size()) &&
         magic == kMagic;
}

std::optional<uint64_t> verify_seal(int descriptor, const std::filesystem::path& path) {
  Seal seal;
  const int64_t got = read_at(descriptor, &seal, sizeof seal, 0);
  WEFT_CHECK(got >= 0, IoError, "cannot read '{}': {}", path.string(),
             error_text(static_cast<int>(-got)));
  if (got < static_cast<int64_t>(kMagic.size()) || seal.magic != kMagic) return std::nullopt;
  WEFT_CHECK(got == static_cast<int64_t>(kSealBytes), IoError,
             "cannot read '{}': it is truncated to {} bytes", path.string(), got);
  WEFT_CHECK(seal.hash_of_fields() == seal.seal_hash, IoError,
             "cannot read '{}': it is damaged (its seal is)", path.string());
  WEFT_CHECK(seal.version == kVersion, IoError,
             "cannot read '{}': its seal has version {}, this program reads version {}",
             path.string(), seal.version, kVersion);
  const uint64_t content = file_size(descriptor, path) - kSealBytes;
  WEFT_CHECK(content >= seal.content_bytes, IoError,
             "cannot read '{}': it is truncated: {} of {} bytes are there", path.string(),
             content + kSealBytes, seal.content_bytes + kSealBytes);
  WEFT_CHECK(content == seal.content_bytes, IoError,
             "cannot read '{}': it is damaged: it has {} bytes more than were written",
             path.string(), content - seal.content_bytes);
  uint64_t hash = 0;
  uint64_t bytes = 0;
  const int error = hash_content(descriptor, hash, bytes);
  WEFT_CHECK(error == 0, IoError, "cannot read '{}': {}", path.string(), error_text(error));
  WEFT_CHECK(hash == seal.content_hash && bytes == seal.content_bytes, IoError,
             "cannot read '{}': it is damaged: checksum {}, written {}", path.string(),
             to_hex(hash), to_hex(seal.content_hash));
  return hash;
}

bool has_hdf5_signature(int descriptor) {
  constexpr std::array<unsigned char, 8> kSignature = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
  // It stands at 0, 512, 1024, 2048, ...
  for (int64_t position = 0;; position = std::max<int64_t>(kSealBytes, 2 * position)) {
    std::array<unsigned char, 8> bytes{};
    if (read_at(descriptor, bytes.data(), bytes.size(), position) <
        static_cast<int64_t>(bytes.size())) {
      return false;
    }
    if (bytes == kSignature) return true;
  }
}

}  // namespace weft::io
