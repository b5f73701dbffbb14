#include "weft/io/guarded.h"

#include <array>
#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "file_descriptor.h"
#include "hdf5_handles.h"

namespace weft::io {
namespace {

enum ChildResult : int { kGood = 0, kRefused = 1, kFailed = 2 };

[[noreturn]] void run_child(const std::function<void()>& action, int report, unsigned cpu_seconds) {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null, STDOUT_FILENO);
  ::dup2(null, STDERR_FILENO);
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGINT, SIGTERM, SIGXCPU})
    std::signal(signal, SIG_DFL);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  const rlimit seconds{cpu_seconds, cpu_seconds + 1};
  ::setrlimit(RLIMIT_CPU, &seconds);
  try {
    action();
    ::_exit(kGood);
  } catch (const IoError& error) {
    const std::string text = error.what();
    write_fully(report, text.data(), text.size());
    ::_exit(kRefused);
  } catch (...) {
    ::_exit(kFailed);
  }
}

std::string read_all(int descriptor) {
  std::string text;
  std::array<char, 4096> buffer{};
  for (;;) {
    const ssize_t got = ::read(descriptor, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(buffer.data(), static_cast<size_t>(got));
  }
}

}  // namespace

void try_in_child(const std::string& subject, const std::function<void()>& action,
                  unsigned cpu_seconds) {
  std::array<int, 2> ends{};
  WEFT_CHECK(::pipe2(ends.data(), O_CLOEXEC) == 0, IoError, "cannot read '{}': {}", subject,
             error_text(errno));
  const FileDescriptor reading(ends[0]);
  FileDescriptor writing(ends[1]);
  pid_t child = 0;
  {
    // No other thread may be inside the HDF5 library while this one is copied.
    const std::lock_guard lock(H5Session::mutex());
    child = ::fork();
  }
  WEFT_CHECK(child >= 0, IoError, "cannot read '{}': no process can be started: {}", subject,
             error_text(errno));
  if (child == 0) run_child(action, writing.get(), cpu_seconds);
  writing = FileDescriptor();
  const std::string refusal = read_all(reading.get());
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == kGood) return;
  if (WIFEXITED(status) && WEXITSTATUS(status) == kRefused) throw IoError(refusal);
  const bool too_long = WIFSIGNALED(status) && (WTERMSIG(status) == SIGXCPU);
  throw_error<IoError>(
      "cannot read '{}': it is damaged ({})", subject,
      too_long ? "reading it does not end" : "its structure crashes the HDF5 library");
}

}  // namespace weft::io
