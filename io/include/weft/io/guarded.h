#pragma once

#include <functional>
#include <string>

namespace weft::io {

/// Runs `action` in a child process, for reading files whose damage may crash a library: when it
/// returns normally there, running it here is safe. An IoError of the child is thrown here with
/// the same text; a crash, or more than `cpu_seconds` of processor time, becomes an IoError that
/// names `subject`. The child's output is dropped. `action` must not use parallel_for: the child
/// has one thread.
void try_in_child(const std::string& subject, const std::function<void()>& action,
                  unsigned cpu_seconds = 60);

}  // namespace weft::io
