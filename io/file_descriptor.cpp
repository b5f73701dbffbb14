#include "file_descriptor.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <system_error>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weft/tensor/check.h"

namespace weft::io {
namespace {

/// Keeps SIGXFSZ, whose default action ends the process, away from this thread while it lives.
class FileSizeSignalGuard {
 public:
  FileSizeSignalGuard() {
    sigemptyset(&mask_);
    sigaddset(&mask_, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &mask_, &before_);
  }
  ~FileSizeSignalGuard() {
    if (sigismember(&before_, SIGXFSZ) == 1) return;
    const timespec no_wait{};
    while (sigtimedwait(&mask_, nullptr, &no_wait) < 0 && errno == EINTR) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  FileSizeSignalGuard(const FileSizeSignalGuard&) = delete;
  FileSizeSignalGuard& operator=(const FileSizeSignalGuard&) = delete;

 private:
  sigset_t mask_{};
  sigset_t before_{};
};

constexpr size_t kLargestTransfer = size_t{1} << 30;  // the kernel moves at most 2 GiB a call

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = other.release();
  }
  return *this;
}

std::string error_text(int error_number) {
  return std::system_category().message(error_number);
}

FileDescriptor open_for_reading(const std::filesystem::path& path) {
  // Not to wait for the writer of a named pipe; the kind of file is checked below.
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  WEFT_CHECK(file.get() >= 0, IoError, "cannot open '{}': {}", path.string(), error_text(errno));
  struct stat status {};
  WEFT_CHECK(::fstat(file.get(), &status) == 0, IoError, "cannot open '{}': {}", path.string(),
             error_text(errno));
  WEFT_CHECK(!S_ISDIR(status.st_mode), IoError, "cannot open '{}': it is a folder", path.string());
  WEFT_CHECK(S_ISREG(status.st_mode), IoError, "cannot open '{}': it is not a regular file",
             path.string());
  return file;
}

uint64_t file_size(int descriptor, const std::filesystem::path& path) {
  struct stat status {};
  WEFT_CHECK(::fstat(descriptor, &status) == 0, IoError, "cannot read '{}': {}", path.string(),
             error_text(errno));
  return static_cast<uint64_t>(status.st_size);
}

std::string read_small_file(const std::filesystem::path& path, uint64_t limit) {
  const FileDescriptor file = open_for_reading(path);
  const uint64_t size = file_size(file.get(), path);
  WEFT_CHECK(size <= limit, IoError, "cannot read '{}': {} bytes, at most {} are taken",
             path.string(), size, limit);
  std::string text(size, '\0');
  const int64_t got = read_at(file.get(), text.data(), text.size(), 0);
  WEFT_CHECK(got >= 0, IoError, "cannot read '{}': {}", path.string(),
             error_text(static_cast<int>(-got)));
  text.resize(static_cast<size_t>(got));
  return text;
}

int write_fully(int descriptor, const void* data, size_t bytes, int64_t position) noexcept {
  const FileSizeSignalGuard guard;
  const auto* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const size_t piece = std::min(bytes, kLargestTransfer);
    const ssize_t written = position < 0 ? ::write(descriptor, next, piece)
                                         : ::pwrite(descriptor, next, piece, position);
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (written == 0) return ENOSPC;
    next += written;
    bytes -= static_cast<size_t>(written);
    if (position >= 0) position += written;
  }
  return 0;
}

int append_fully(int descriptor, const void* data, size_t bytes) noexcept {
  const off_t end = ::lseek(descriptor, 0, SEEK_END);
  const int error = write_fully(descriptor, data, bytes);
  // A piece of a record would spoil the one that follows it.
  if (error != 0 && end >= 0 && ::ftruncate(descriptor, end) != 0) return errno;
  return error;
}

int64_t read_at(int descriptor, void* data, size_t bytes, int64_t position) noexcept {
  auto* next = static_cast<char*>(data);
  int64_t total = 0;
  while (bytes > 0) {
    const ssize_t got =
        ::pread(descriptor, next, std::min(bytes, kLargestTransfer), position + total);
    if (got < 0) {
      if (errno == EINTR) continue;
      return -errno;
    }
    if (got == 0) break;
    next += got;
    total += got;
    bytes -= static_cast<size_t>(got);
  }
  return total;
}

void sync_folder(const std::filesystem::path& folder) {
  const FileDescriptor handle(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  WEFT_CHECK(handle.get() >= 0, IoError, "cannot open folder '{}': {}", folder.string(),
             error_text(errno));
  // Some file systems cannot flush folders and say so with EINVAL; they order renames themselves.
  WEFT_CHECK(::fsync(handle.get()) == 0 || errno == EINVAL, IoError, "cannot flush folder '{}': {}",
             folder.string(), error_text(errno));
}

}  // namespace weft::io
