#include <algorithm>
#include <charconv>
#include <system_error>

#include "weft/io/atomic_file.h"
#include "weft/io/checkpoint.h"
#include "weft/io/token_dataset.h"
#include "weft/tensor/check.h"

#include "file_descriptor.h"

namespace weft::io {
namespace {

constexpr std::string_view kPrefix = "step-";
constexpr std::string_view kSuffix = ".h5";
constexpr const char* kLatest = "latest";

std::string file_name(int64_t step) {
  return fmt::format("{}{:08}{}", kPrefix, step, kSuffix);
}

/// The step of "step-00001000.h5"; nothing for other names.
std::optional<int64_t> step_of(std::string_view name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  name.remove_suffix(std::min(kSuffix.size(), name.size()));
  int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size() || step < 0) return std::nullopt;
  return step;
}

void point_latest(const std::filesystem::path& folder, const std::string& name) {
  const std::filesystem::path latest = folder / kLatest;
  try {
    replace_symlink_atomically(latest, name);
  } catch (const IoError&) {
    // No links here, or an earlier save found none: a file with the name serves as well. A link
    // must not be written through.
    if (std::filesystem::is_symlink(latest)) throw;
    write_file_atomically(latest, name + "\n");
  }
}

}  // namespace

std::filesystem::path CheckpointFolder::path_of(int64_t step) const {
  return folder_ / file_name(step);
}

std::vector<int64_t> CheckpointFolder::steps() const {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(folder_, error)) {
    const auto step = step_of(item.path().filename().string());
    if (step && path_of(*step) == item.path()) steps.push_back(*step);
  }
  WEFT_CHECK(!error || error == std::errc::no_such_file_or_directory, IoError,
             "cannot read folder '{}': {}", folder_.string(), error.message());
  std::sort(steps.begin(), steps.end());
  return steps;
}

void CheckpointFolder::save(int64_t step, int64_t keep,
                            const std::function<void(CheckpointWriter&)>& fill) const {
  WEFT_CHECK(step >= 0, ConfigError, "checkpoint: step must be at least 0, got {}", step);
  WEFT_CHECK(keep == -1 || keep >= 1, ConfigError,
             "checkpoint: keep must be -1 (all) or at least 1, got {}", keep);
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  WEFT_CHECK(!error, IoError, "cannot make folder '{}': {}", folder_.string(), error.message());
  CheckpointWriter writer(path_of(step));
  fill(writer);
  writer.commit();
  point_latest(folder_, file_name(step));

  std::vector<int64_t> older;
  for (const int64_t other : steps()) {
    if (other < step) older.push_back(other);
    if (other <= step) continue;
    std::filesystem::rename(path_of(other), folder_ / ("superseded-" + file_name(other)), error);
    WEFT_CHECK(!error, IoError, "cannot rename '{}': {}", path_of(other).string(), error.message());
  }
  const auto left = static_cast<size_t>(keep - 1);  // all of them when keep is -1
  for (size_t i = 0; keep >= 1 && i + left < older.size(); ++i) {
    std::filesystem::remove(path_of(older[i]), error);
    WEFT_CHECK(!error, IoError, "cannot remove '{}': {}", path_of(older[i]).string(),
               error.message());
  }
}

std::optional<CheckpointFolder::Loaded> CheckpointFolder::newest() const {
  const std::vector<int64_t> present = steps();
  std::vector<std::string> notices;
  for (auto step = present.rbegin(); step != present.rend(); ++step) {
    try {
      return Loaded{CheckpointReader(path_of(*step)), *step, std::move(notices)};
    } catch (const Error& refusal) {
      notices.emplace_back(refusal.what());
    }
  }
  if (notices.empty()) return std::nullopt;
  throw_error<IoError>("no checkpoint in '{}' can be used: {}", folder_.string(), notices.front());
}

void CheckpointFolder::remove_leftovers() const {
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(folder_, error)) {
    if (is_temporary(item.path())) std::filesystem::remove(item.path(), error);
  }
}

std::filesystem::path find_checkpoint(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    for (const std::filesystem::path& folder : {path, path / "checkpoints"}) {
      const CheckpointFolder checkpoints(folder);
      const std::vector<int64_t> steps = checkpoints.steps();
      if (!steps.empty()) return checkpoints.path_of(steps.back());
    }
    throw_error<IoError>("no checkpoint in '{}'", path.string());
  }
  // Copying a run may have put the checkpoint itself where the link was.
  if (path.filename() == kLatest && !std::filesystem::is_symlink(path, error) &&
      !is_hdf5_file(path)) {
    constexpr uint64_t kLongest = 4096;
    std::string name = read_small_file(path, kLongest);
    while (!name.empty() && name.back() == '\n') name.pop_back();
    WEFT_CHECK(step_of(name).has_value(), IoError, "'{}' does not name a checkpoint",
               path.string());
    return path.parent_path() / name;
  }
  open_for_reading(path);  // says why it cannot
  return path;
}

}  // namespace weft::io
