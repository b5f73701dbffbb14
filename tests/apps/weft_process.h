#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <sys/types.h>

#include "temporary_folder.h"

namespace weft::apps {

using io::read_bytes;
using io::TemporaryFolder;
using io::write_bytes;
using Arguments = std::vector<std::string>;

/// Where a stream of the child goes.
enum class Stream { captured, full_disk, closed, broken_pipe };

struct ProcessOptions {
  std::filesystem::path folder = {};                    ///< working folder; empty: this one's
  std::map<std::string, std::string> environment = {};  ///< added to a fixed small one
  Stream out = Stream::captured;
  Stream err = Stream::captured;
  int64_t most_file_bytes = -1;  ///< RLIMIT_FSIZE
  double timeout = 60;           ///< seconds, then it is killed
  bool gpu = false;              ///< shows it this machine's GPUs
};

struct Outcome {
  int code = -1;  ///< exit status, 128 + n when killed by signal n
  bool killed = false;
  bool timed_out = false;
  std::string out;
  std::string err;
};

/// The program `weft` with these arguments as a child process, on one thread. Killed with the
/// object.
class Process {
 public:
  explicit Process(const Arguments& arguments, const ProcessOptions& options = {});
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void send(int signal) const;
  /// Waits until `condition` holds; false when the child ended or the time was up before.
  bool wait_until(const std::function<bool()>& condition);
  /// The same until `path` exists.
  bool wait_for(const std::filesystem::path& path);
  Outcome wait();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  bool has_ended();

  pid_t pid_ = -1;
  int status_ = 0;
  bool ended_ = false;
  double timeout_;
  std::unique_ptr<std::FILE, Close> out_;
  std::unique_ptr<std::FILE, Close> err_;
};

/// Runs the program to its end.
Outcome weft(const Arguments& arguments, const ProcessOptions& options = {});

/// `first` with `second` behind it.
Arguments joined(Arguments first, const Arguments& second);

/// `weft train` of a model that learns a step in about a millisecond; `more` comes behind the
/// defaults and replaces those given again.
Arguments train_arguments(const std::string& data, const std::filesystem::path& out_dir,
                          const Arguments& more = {});

/// Parses stdout; fails the test where it is not one JSON value.
nlohmann::json parse_json(const Outcome& outcome);

/// Names of the tensors of the newest checkpoint and their hashes.
std::map<std::string, std::string> tensor_hashes(const std::filesystem::path& run);

/// Step and training loss, as written, of each row of metrics.csv.
std::vector<std::pair<std::string, std::string>> losses(const std::filesystem::path& run);

/// Lines of text for a dataset, the same each time.
std::string sample_text(int lines);

/// Exactly one line, which begins with "weft: " or "error: ".
bool is_one_error_line(const std::string& text);

}  // namespace weft::apps
