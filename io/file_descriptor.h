#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace weft::io {

/// Owns a POSIX file descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept : descriptor_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;

  int get() const { return descriptor_; }
  int release() {
    const int descriptor = descriptor_;
    descriptor_ = -1;
    return descriptor;
  }

 private:
  int descriptor_ = -1;
};

/// "No space left on device" for ENOSPC.
std::string error_text(int error_number);

/// Opens a regular file for reading. Throws IoError: missing, unreadable, a folder or a device.
FileDescriptor open_for_reading(const std::filesystem::path& path);

/// The whole of a file of at most `limit` bytes. Throws IoError.
std::string read_small_file(const std::filesystem::path& path, uint64_t limit = uint64_t{1} << 28);

/// Size of an open file. Throws IoError naming `path`.
uint64_t file_size(int descriptor, const std::filesystem::path& path);

/// Writes all bytes at `position`, or at the file's own position when that is negative. Returns 0
/// or an errno. A limit on file size gives EFBIG and does not end the process by SIGXFSZ.
int write_fully(int descriptor, const void* data, size_t bytes, int64_t position = -1) noexcept;

/// Appends all bytes to a file opened with O_APPEND, or none. Returns 0 or an errno.
int append_fully(int descriptor, const void* data, size_t bytes) noexcept;

/// Reads up to `bytes` at `position`; less only at the end of the file. Returns the count, or
/// -errno.
int64_t read_at(int descriptor, void* data, size_t bytes, int64_t position) noexcept;

/// Makes a rename in `folder` durable. Throws IoError.
void sync_folder(const std::filesystem::path& folder);

}  // namespace weft::io
