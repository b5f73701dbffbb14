#include "weft/io/run_folder.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/file.h>
#include <unistd.h>

#include "weft/io/atomic_file.h"
#include "weft/tensor/check.h"

#include "file_descriptor.h"

namespace weft::io {
namespace {

constexpr const char* kLockName = ".lock";

void append(const std::filesystem::path& path, std::string_view text) {
  const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  WEFT_CHECK(file.get() >= 0, IoError, "cannot write '{}': {}", path.string(), error_text(errno));
  if (const int error = append_fully(file.get(), text.data(), text.size()))
    throw_error<IoError>("cannot write '{}': {}", path.string(), error_text(error));
}

void remove_leftovers(const std::filesystem::path& folder) {
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(folder, error)) {
    std::error_code ignored;  // what cannot be removed does no harm
    if (is_temporary(item.path())) std::filesystem::remove(item.path(), ignored);
  }
}

}  // namespace

void RunFolder::create() const {
  std::error_code error;
  std::filesystem::create_directories(path_, error);
  WEFT_CHECK(!error, IoError, "cannot make folder '{}': {}", path_.string(), error.message());
}

bool RunFolder::has_run() const {
  std::error_code error;
  return std::filesystem::exists(config(), error) || !checkpoints().steps().empty();
}

void RunFolder::write_config(std::string_view text) const {
  write_file_atomically(config(), text);
}

std::string RunFolder::read_config() const {
  return read_small_file(config());
}

void RunFolder::write_facts(const std::vector<std::pair<std::string, std::string>>& facts) const {
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  for (const auto& [name, value] : facts) object[name] = value;
  write_file_atomically(
      this->facts(),
      object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

std::vector<std::pair<std::string, std::string>> RunFolder::read_facts() const {
  std::vector<std::pair<std::string, std::string>> facts;
  std::error_code error;
  if (!std::filesystem::exists(this->facts(), error)) return facts;
  const auto object = nlohmann::ordered_json::parse(read_small_file(this->facts()), nullptr,
                                                    /*allow_exceptions=*/false);
  WEFT_CHECK(object.is_object(), IoError, "'{}' is not a JSON object", this->facts().string());
  for (const auto& [name, value] : object.items()) {
    WEFT_CHECK(value.is_string(), IoError, "'{}': the value of '{}' is not a text",
               this->facts().string(), name);
    facts.emplace_back(name, value.get<std::string>());
  }
  return facts;
}

void RunFolder::append_sample(int64_t step, std::string_view text) const {
  append(samples(),
         fmt::format("=== step {}\n{}{}\n", step, text, text.ends_with('\n') ? "" : "\n"));
}

RunLock::RunLock(const RunFolder& folder) {
  const std::filesystem::path path = folder.path() / kLockName;
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  WEFT_CHECK(file.get() >= 0, IoError, "cannot write to run folder '{}': {}",
             folder.path().string(), error_text(errno));
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    std::array<char, 32> owner{};
    read_at(file.get(), owner.data(), owner.size() - 1, 0);
    WEFT_CHECK(reason != EWOULDBLOCK, IoError, "run folder '{}' is in use by process {}",
               folder.path().string(), owner.data());
    // A file system without locks: go on as if alone.
    WEFT_CHECK(reason == ENOLCK || reason == ENOTSUP || reason == EINVAL, IoError,
               "cannot lock run folder '{}': {}", folder.path().string(), error_text(reason));
  }
  const std::string owner = fmt::format("{}", ::getpid());
  if (::ftruncate(file.get(), 0) == 0) write_fully(file.get(), owner.data(), owner.size(), 0);
  remove_leftovers(folder.path());
  folder.checkpoints().remove_leftovers();
  descriptor_ = file.release();
}

RunLock::~RunLock() {
  ::close(descriptor_);
}

}  // namespace weft::io
