#include "weft_process.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <thread>

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "weft/io/metrics.h"

namespace weft::apps {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string content(std::FILE* file) {
  std::rewind(file);
  std::string text;
  std::array<char, 4096> buffer;
  for (size_t got; (got = std::fread(buffer.data(), 1, buffer.size(), file)) > 0;)
    text.append(buffer.data(), got);
  return text;
}

/// In the child: makes `target` what `stream` says.
void connect(Stream stream, std::FILE* capture, int target) {
  if (stream == Stream::closed) {
    close(target);
    return;
  }
  int from = fileno(capture);
  if (stream == Stream::full_disk) from = open("/dev/full", O_WRONLY);
  if (stream == Stream::broken_pipe) {
    int ends[2];
    if (pipe(ends) != 0) _exit(126);
    close(ends[0]);
    from = ends[1];
  }
  if (dup2(from, target) < 0) _exit(126);
}

}  // namespace

Process::Process(const Arguments& arguments, const ProcessOptions& options)
    : timeout_(options.timeout), out_(std::tmpfile()), err_(std::tmpfile()) {
  if (!out_ || !err_) throw std::runtime_error("tmpfile failed");
  // Another place than that of the build, where the tests were carried to another machine.
  const char* const elsewhere = std::getenv("WEFT_PROGRAM");
  Arguments command = {elsewhere != nullptr ? elsewhere : WEFT_PROGRAM};
  command.insert(command.end(), arguments.begin(), arguments.end());
  std::map<std::string, std::string> environment = {
      {"OMP_NUM_THREADS", "1"}, {"OMP_WAIT_POLICY", "passive"}, {"PATH", "/usr/bin:/bin"}};
  // Results of the CPU are the same everywhere; without this --device auto would leave it.
  if (!options.gpu) environment["CUDA_VISIBLE_DEVICES"] = "";
  for (const char* name :
       {"LD_LIBRARY_PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS"}) {
    if (const char* value = std::getenv(name)) environment[name] = value;
  }
  // ThreadSanitizer writes a file there before main(), and goes without where it cannot.
  if (options.most_file_bytes >= 0) environment["TEST_TMPDIR"] = "/nonexistent";
  for (const auto& [name, value] : options.environment) environment[name] = value;
  Arguments variables;
  for (const auto& [name, value] : environment) variables.push_back(name + "=" + value);
  const auto pointers = [](Arguments& texts) {
    std::vector<char*> list;
    for (std::string& text : texts) list.push_back(text.data());
    list.push_back(nullptr);
    return list;
  };
  const std::vector<char*> argv = pointers(command);
  const std::vector<char*> envp = pointers(variables);
  const std::string folder = options.folder.string();

  pid_ = fork();
  if (pid_ < 0) throw std::runtime_error("fork failed");
  if (pid_ > 0) return;
  if (!folder.empty() && chdir(folder.c_str()) != 0) _exit(126);
  const int nothing = open("/dev/null", O_RDONLY);
  dup2(nothing, STDIN_FILENO);
  connect(options.out, out_.get(), STDOUT_FILENO);
  connect(options.err, err_.get(), STDERR_FILENO);
  // What is left open from here would fill the numbers of closed streams.
  for (int descriptor = STDERR_FILENO + 1; descriptor < 64; ++descriptor) close(descriptor);
  if (options.most_file_bytes >= 0) {
    const rlimit limit{static_cast<rlim_t>(options.most_file_bytes),
                       static_cast<rlim_t>(options.most_file_bytes)};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  execve(argv[0], argv.data(), envp.data());
  _exit(127);
}

Process::~Process() {
  if (ended_) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, &status_, 0);
}

void Process::send(int signal) const {
  if (!ended_) ::kill(pid_, signal);
}

bool Process::has_ended() {
  if (!ended_) ended_ = ::waitpid(pid_, &status_, WNOHANG) == pid_;
  return ended_;
}

bool Process::wait_until(const std::function<bool()>& condition) {
  const auto start = Clock::now();
  while (!condition()) {
    if (has_ended() || seconds_since(start) > timeout_) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

bool Process::wait_for(const std::filesystem::path& path) {
  return wait_until([&] { return std::filesystem::exists(path); });
}

Outcome Process::wait() {
  Outcome outcome;
  const auto start = Clock::now();
  while (!has_ended()) {
    if (!outcome.timed_out && seconds_since(start) > timeout_) {
      outcome.timed_out = true;
      send(SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  outcome.killed = WIFSIGNALED(status_);
  outcome.code = outcome.killed ? 128 + WTERMSIG(status_) : WEXITSTATUS(status_);
  outcome.out = content(out_.get());
  outcome.err = content(err_.get());
  return outcome;
}

Outcome weft(const Arguments& arguments, const ProcessOptions& options) {
  return Process(arguments, options).wait();
}

Arguments joined(Arguments first, const Arguments& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

Arguments train_arguments(const std::string& data, const std::filesystem::path& out_dir,
                          const Arguments& more) {
  const Arguments defaults = {"--n-layers",       "1",  "--d-model", "16",  "--n-heads",      "2",
                              "--d-ff",           "32", "--seq-len", "16",  "--batch-size",   "2",
                              "--eval-sequences", "2",  "--dtype",   "f32", "--warmup-steps", "2",
                              "--max-steps",      "4"};
  Arguments arguments = {"train", "--data", data, "--out-dir", out_dir.string()};
  for (size_t i = 0; i < defaults.size(); i += 2) {
    if (std::find(more.begin(), more.end(), defaults[i]) == more.end())
      arguments.insert(arguments.end(), {defaults[i], defaults[i + 1]});
  }
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

nlohmann::json parse_json(const Outcome& outcome) {
  auto value = nlohmann::json::parse(outcome.out, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(value.is_discarded()) << outcome.code << "\n" << outcome.out << outcome.err;
  return value;
}

std::map<std::string, std::string> tensor_hashes(const std::filesystem::path& run) {
  const nlohmann::json found = parse_json(weft({"inspect", run.string(), "--format", "json"}));
  std::map<std::string, std::string> hashes;
  if (!found.is_object()) return hashes;
  for (const nlohmann::json& tensor : found.at("tensors")) {
    hashes[tensor.at("name").get<std::string>()] = tensor.at("xxh64").get<std::string>();
  }
  return hashes;
}

std::vector<std::pair<std::string, std::string>> losses(const std::filesystem::path& run) {
  const io::MetricsTable table = io::read_metrics(run / "metrics.csv");
  const int column = table.column("train/loss");
  std::vector<std::pair<std::string, std::string>> rows;
  for (const io::MetricsTable::Row& row : table.rows) {
    const auto loss = row.values.at(static_cast<size_t>(column));
    rows.emplace_back(fmt::format("{}", row.step), loss ? fmt::format("{}", *loss) : "");
  }
  return rows;
}

std::string sample_text(int lines) {
  std::string text;
  for (int i = 0; i < lines; ++i)
    text += fmt::format("In line {} stands the number {} and nothing else.\n", i, i * i % 97);
  return text;
}

bool is_one_error_line(const std::string& text) {
  return (text.starts_with("weft: ") || text.starts_with("error: ")) && text.ends_with('\n') &&
         text.find('\n') == text.size() - 1 && text.size() > 15;
}

}  // namespace weft::apps
