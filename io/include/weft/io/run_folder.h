#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weft/io/checkpoint.h"

namespace weft::io {

/// Where a run keeps what it makes:
///   config.ini  train.log  metrics.csv  events.out.tfevents.*  samples.txt  facts.json report.html
///   checkpoints/step-00001000.h5 ...  checkpoints/latest
/// Reading needs no lock; a process that writes holds a RunLock.
class RunFolder {
 public:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config() const { return path_ / "config.ini"; }
  std::filesystem::path log() const { return path_ / "train.log"; }
  std::filesystem::path metrics() const { return path_ / "metrics.csv"; }
  std::filesystem::path samples() const { return path_ / "samples.txt"; }
  std::filesystem::path facts() const { return path_ / "facts.json"; }
  std::filesystem::path report() const { return path_ / "report.html"; }
  CheckpointFolder checkpoints() const { return CheckpointFolder(path_ / "checkpoints"); }

  /// Makes the folder and those above it. Throws IoError.
  void create() const;
  /// Whether something of a run lies there: a config or a checkpoint.
  bool has_run() const;

  /// Throw IoError.
  void write_config(std::string_view text) const;
  std::string read_config() const;
  /// What is known of the run besides its config: names and texts, such as "parameters", "1.2 M".
  void write_facts(const std::vector<std::pair<std::string, std::string>>& facts) const;
  /// None where nothing was written.
  std::vector<std::pair<std::string, std::string>> read_facts() const;
  /// Appends a generated text to samples.txt, under a line that names the step.
  void append_sample(int64_t step, std::string_view text) const;

 private:
  std::filesystem::path path_;
};

/// The right to write to a run folder, held by one process at a time and let go when it ends,
/// however it ends. Removes what an interrupted process left half-written.
class RunLock {
 public:
  /// Throws IoError where another process holds it (naming that process), or the folder cannot be
  /// written.
  explicit RunLock(const RunFolder& folder);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace weft::io
