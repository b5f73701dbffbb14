#include "weft/io/atomic_file.h"

#include <atomic>
#include <cerrno>
#include <cstdio>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weft/tensor/check.h"

#include "file_descriptor.h"

namespace weft::io {
namespace {

constexpr std::string_view kMark = ".weft-tmp-";

std::filesystem::path folder_of(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.parent_path();
  return folder.empty() ? "." : folder;
}

/// A name beside `target` that no other thread or living process uses.
std::filesystem::path temporary_name(const std::filesystem::path& target) {
  static std::atomic<unsigned> counter{0};
  constexpr size_t kLongestStem = 200;  // file systems allow 255 bytes
  const std::string stem = target.filename().string().substr(0, kLongestStem);
  return folder_of(target) / fmt::format(".{}{}{}-{}", stem, kMark, ::getpid(), counter++);
}

[[noreturn]] void throw_cannot_write(const std::filesystem::path& path, int error_number) {
  throw_error<IoError>("cannot write '{}': {}", path.string(), error_text(error_number));
}

}  // namespace

AtomicFile::AtomicFile(const std::filesystem::path& target) : target_(target) {
  std::error_code error;
  constexpr int kMostLinks = 40;  // as the kernel
  for (int links = 0; std::filesystem::is_symlink(target_, error); ++links) {
    WEFT_CHECK(links < kMostLinks, IoError, "cannot write '{}': {}", target.string(),
               error_text(ELOOP));
    target_ = folder_of(target_) / std::filesystem::read_symlink(target_, error);
  }
  WEFT_CHECK(target_.has_filename() && target_.filename() != "." && target_.filename() != "..",
             IoError, "cannot write '{}': it names no file", target.string());
  struct stat status {};
  const bool replaces = ::stat(target_.c_str(), &status) == 0;
  WEFT_CHECK(!replaces || !S_ISDIR(status.st_mode), IoError, "cannot write '{}': it is a folder",
             target_.string());
  WEFT_CHECK(!replaces || S_ISREG(status.st_mode), IoError,
             "cannot write '{}': it is not a regular file", target_.string());
  do {
    temporary_ = temporary_name(target_);
    descriptor_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EEXIST);
  if (descriptor_ < 0) throw_cannot_write(target_, errno);
  if (replaces && ::fchmod(descriptor_, status.st_mode & 07777) != 0) {
    const int reason = errno;
    discard();
    throw_cannot_write(target_, reason);
  }
}

AtomicFile::~AtomicFile() {
  discard();
}

void AtomicFile::discard() noexcept {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  descriptor_ = -1;
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text)));
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  WEFT_CHECK(descriptor_ >= 0, IoError, "cannot write '{}': the file is already closed",
             target_.string());
  if (const int reason = write_fully(descriptor_, bytes.data(), bytes.size())) {
    discard();
    throw_cannot_write(target_, reason);
  }
}

void AtomicFile::commit() {
  WEFT_CHECK(descriptor_ >= 0, IoError, "cannot write '{}': the file is already closed",
             target_.string());
  if (::fsync(descriptor_) != 0 || std::rename(temporary_.c_str(), target_.c_str()) != 0) {
    const int reason = errno;
    discard();
    throw_cannot_write(target_, reason);
  }
  ::close(descriptor_);
  descriptor_ = -1;
  sync_folder(folder_of(target_));
}

void write_file_atomically(const std::filesystem::path& target, std::string_view text) {
  AtomicFile file(target);
  file.write(text);
  file.commit();
}

void replace_symlink_atomically(const std::filesystem::path& link,
                                const std::filesystem::path& destination) {
  struct stat status {};
  WEFT_CHECK(::lstat(link.c_str(), &status) != 0 || S_ISLNK(status.st_mode), IoError,
             "cannot write link '{}': a file of this name is there", link.string());
  std::filesystem::path temporary;
  int result = 0;
  do {
    temporary = temporary_name(link);
    result = ::symlink(destination.c_str(), temporary.c_str());
  } while (result != 0 && errno == EEXIST);
  if (result != 0) throw_cannot_write(link, errno);
  if (std::rename(temporary.c_str(), link.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary.c_str());
    throw_cannot_write(link, reason);
  }
  sync_folder(folder_of(link));
}

bool is_temporary(const std::filesystem::path& name) {
  const std::string file = name.filename().string();
  return file.starts_with('.') && file.find(kMark) != std::string::npos;
}

}  // namespace weft::io
