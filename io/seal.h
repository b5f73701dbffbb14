#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace weft::io {

/// Bytes before the content of a sealed file; a size that HDF5 allows for a "user block".
inline constexpr uint64_t kSealBytes = 512;

/// Whether a file claims a seal; false where it cannot be read.
bool has_seal(int descriptor);

/// Fills the space in front with length and hash of the content behind it. Returns 0 or an errno.
int write_seal(int descriptor);

/// Verifies a file. Returns the hash of its content, or nothing where there is no seal. Throws
/// IoError, naming `path`, where a seal is there and does not fit.
std::optional<uint64_t> verify_seal(int descriptor, const std::filesystem::path& path);

/// Whether a file, sealed or not, is HDF5 by its signature; false where it cannot be read.
bool has_hdf5_signature(int descriptor);

}  // namespace weft::io
