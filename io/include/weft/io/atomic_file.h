#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace weft::io {

/// A file that appears under its name only when it is complete. Bytes go to a temporary file in the
/// same folder; commit() makes them durable and renames. Whatever fails (full disk, size limit,
/// read-only folder) throws IoError with path and reason, removes the temporary file and leaves the
/// old file as it was. A process killed at any moment leaves the old file or the new one, and at
/// most a temporary file, whose name is_temporary() knows.
///
///   AtomicFile file("config.ini");
///   file.write("seed = 1\n");
///   file.commit();
class AtomicFile {
 public:
  /// Creates the temporary file. Throws IoError, also where `target` is there and is not a regular
  /// file. A symbolic link is followed: the file that it names is replaced.
  explicit AtomicFile(const std::filesystem::path& target);
  /// Removes the temporary file unless commit() succeeded.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::filesystem::path& target() const { return target_; }
  const std::filesystem::path& temporary() const { return temporary_; }
  /// The open temporary file, for writers that need random access.
  int descriptor() const { return descriptor_; }

  void write(std::string_view text);
  void write(std::span<const std::byte> bytes);
  /// Flushes to the disk and puts the file in its place. No write may follow.
  void commit();

 private:
  void discard() noexcept;

  std::filesystem::path target_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

/// Replaces the content of `target` by `text`, atomically. Throws IoError.
void write_file_atomically(const std::filesystem::path& target, std::string_view text);

/// Points the symbolic link `link` to `destination` (kept as given, so it may be relative to the
/// folder of the link), atomically. Throws IoError, also where `link` is there and is no link.
void replace_symlink_atomically(const std::filesystem::path& link,
                                const std::filesystem::path& destination);

/// Whether a file of this name is the leftover of an interrupted AtomicFile.
bool is_temporary(const std::filesystem::path& name);

}  // namespace weft::io
