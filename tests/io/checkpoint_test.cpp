#include "weft/io/checkpoint.h"

#include <array>
#include <chrono>
#include <csignal>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "weft/io/atomic_file.h"
#include "weft/io/hdf5.h"
#include "weft/tensor/error.h"

#include "file_size_limit.h"
#include "temporary_folder.h"

namespace weft::io {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string bytes_of(const Tensor& tensor) {
  const Tensor dense = tensor.contiguous();
  return {static_cast<const char*>(dense.raw_data()),
          static_cast<size_t>(dense.numel()) * size_of(dense.dtype())};
}

Tensor random_tensor(const Shape& shape, DType dtype, unsigned seed) {
  Tensor tensor = empty(shape, dtype);
  std::mt19937 random(seed);
  auto* bytes = static_cast<unsigned char*>(tensor.raw_data());
  const size_t count = static_cast<size_t>(tensor.numel()) * size_of(dtype);
  for (size_t i = 0; i < count; ++i)
    bytes[i] = static_cast<unsigned char>(dtype == DType::boolean ? random() % 2 : random());
  return tensor;
}

void fill_sample(CheckpointWriter& writer, int seed = 0) {
  const auto s = static_cast<unsigned>(seed);
  writer.add("model.layers.0.self_attn.q_proj.weight", random_tensor({8, 4}, DType::f32, s));
  writer.add("model.layers.0.mlp.up_proj.weight", random_tensor({3, 5}, DType::bf16, s + 1));
  writer.add("model.norm.weight", random_tensor({7}, DType::f16, s + 2));
  writer.add("optim.exp_avg.0", random_tensor({8, 4}, DType::f64, s + 3));
  writer.add_text("config", "seq_len = 256\nlr = 3e-4\n");
  writer.add_text("tokenizer", "");
  writer.add_int("train.step", 1000 + seed);
  writer.add_double("train.loss", 0.1);
  writer.add_generator("train.dropout", {~uint64_t{0}, 1234567});
}

void write_sample(const std::filesystem::path& path, int seed = 0) {
  CheckpointWriter writer(path);
  fill_sample(writer, seed);
  writer.commit();
}

TEST(Checkpoint, EveryTypeShapeAndLayoutComesBackBitForBit) {
  const TemporaryFolder folder;
  const auto path = folder / "x.h5";
  const std::vector<DType> dtypes = {DType::f64, DType::f32, DType::bf16, DType::f16,
                                     DType::i64, DType::i32, DType::u8,   DType::boolean};
  const std::vector<Shape> shapes = {{}, {0}, {1}, {15}, {3, 0}, {63, 2}, {1, 2, 1, 2, 1, 2, 1, 2}};
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const DType dtype : dtypes) {
    for (const Shape& shape : shapes) {
      const std::string name =
          "t." + std::string(to_string(dtype)) + "." + std::to_string(tensors.size());
      tensors.emplace_back(name,
                           random_tensor(shape, dtype, static_cast<unsigned>(tensors.size())));
    }
    const Tensor base = random_tensor({5, 7}, dtype, 99);
    tensors.emplace_back("v.transposed." + std::string(to_string(dtype)), base.transpose(0, 1));
    tensors.emplace_back("v.offset." + std::string(to_string(dtype)), base.slice(1, 2, 7, 2));
    tensors.emplace_back("v.expanded." + std::string(to_string(dtype)),
                         base.select(0, 1).unsqueeze(0).expand({3, 7}));
  }
  CheckpointWriter writer(path);
  for (const auto& [name, tensor] : tensors) writer.add(name, tensor);
  writer.commit();
  const CheckpointReader reader(path);
  ASSERT_EQ(reader.entries().size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& [name, tensor] = tensors[i];
    EXPECT_EQ(reader.entries()[i].name, name);
    EXPECT_EQ(reader.entries()[i].dtype, tensor.dtype());
    const Tensor again = reader.tensor(name);
    EXPECT_EQ(again.shape(), tensor.shape());
    EXPECT_EQ(again.dtype(), tensor.dtype());
    EXPECT_EQ(bytes_of(again), bytes_of(tensor)) << name;
    Tensor target = empty_like(tensor);
    reader.read_into(name, target);
    EXPECT_EQ(target.to_vector<double>().size(), static_cast<size_t>(tensor.numel()));
  }
}

TEST(Checkpoint, TextsNumbersAndGenerators) {
  const TemporaryFolder folder;
  const auto path = folder / "x.h5";
  const std::string text = "any bytes: \0\xFF\n" + std::string(100'000, 'x');
  CheckpointWriter writer(path);
  writer.add_text("a.text", text);
  writer.add_text("a.empty", "");
  const std::vector<int64_t> ints = {0, -1, INT64_MAX, INT64_MIN};
  const std::vector<double> reals = {0.1, -0.0, 1e-320, std::numeric_limits<double>::infinity(),
                                     std::numeric_limits<double>::quiet_NaN()};
  for (size_t i = 0; i < ints.size(); ++i) writer.add_int("i." + std::to_string(i), ints[i]);
  for (size_t i = 0; i < reals.size(); ++i) writer.add_double("r." + std::to_string(i), reals[i]);
  writer.add_generator("g", {~uint64_t{0}, 42});
  writer.commit();
  const CheckpointReader reader(path);
  EXPECT_EQ(reader.text("a.text"), text);
  EXPECT_EQ(reader.text("a.empty"), "");
  for (size_t i = 0; i < ints.size(); ++i)
    EXPECT_EQ(reader.get_int("i." + std::to_string(i)), ints[i]);
  for (size_t i = 0; i < reals.size(); ++i) {
    const double again = reader.get_double("r." + std::to_string(i));
    EXPECT_EQ(std::memcmp(&again, &reals[i], sizeof again), 0);
  }
  EXPECT_EQ(reader.generator("g").seed, ~uint64_t{0});
  EXPECT_EQ(reader.generator("g").offset, 42u);
  EXPECT_THAT(reader.producer(), HasSubstr("weft "));
  EXPECT_TRUE(reader.has("i.0"));
  EXPECT_FALSE(reader.has("i"));
  EXPECT_THAT(error_of<IoError>([&] { reader.tensor("model.x"); }), HasSubstr("has no 'model.x'"));
  EXPECT_THAT(error_of<IoError>([&] { reader.text("i.0"); }),
              HasSubstr("'i.0' is a whole number, not a text"));
  Tensor wrong = empty({3});
  EXPECT_THROW(reader.read_into("a.text", wrong), IoError);
}

TEST(Checkpoint, TheFileHasTheDocumentedLayout) {
  const TemporaryFolder folder;
  write_sample(folder / "x.h5");
  const Hdf5Reader file(folder / "x.h5");
  EXPECT_THAT(file.children("/"),
              ElementsAre("config", "model", "optim", "table", "tokenizer", "train"));
  EXPECT_EQ(file.text_attribute("/", "format"), "weft-checkpoint");
  EXPECT_EQ(file.int_attribute("/", "format_version"), 1);
  EXPECT_TRUE(file.text_attribute("/", "producer").has_value());
  const std::string up = "/model/layers/0/mlp/up_proj/weight";
  EXPECT_EQ(file.info(up).type, ElementType::u16);
  EXPECT_EQ(file.text_attribute(up, "dtype"), "BF16");
  EXPECT_EQ(file.info("/model/norm/weight").type, ElementType::f16);
  EXPECT_EQ(file.info("/model/layers/0/self_attn/q_proj/weight").shape,
            (std::vector<int64_t>{8, 4}));
  EXPECT_EQ(file.read_text("/config"), "seq_len = 256\nlr = 3e-4\n");
}

TEST(Checkpoint, EqualContentGivesEqualFiles) {
  const TemporaryFolder folder;
  write_sample(folder / "a.h5");
  write_sample(folder / "b.h5");
  EXPECT_EQ(read_bytes(folder / "a.h5"), read_bytes(folder / "b.h5"));
}

TEST(Checkpoint, BadNamesAreRefused) {
  const TemporaryFolder folder;
  CheckpointWriter writer(folder / "x.h5");
  for (const char* name : {"", ".", "a.", ".a", "a..b", "a/b", "a b", "a\nb", "\xC3\xA9", "table"})
    EXPECT_THROW(writer.add_int(name, 1), ConfigError) << name;
  EXPECT_THROW(writer.add_int(std::string(1001, 'a'), 1), ConfigError);
  writer.add_int("a.b", 1);
  EXPECT_THROW(writer.add_int("a.b", 2), ConfigError);
  EXPECT_THROW(writer.add_int("a.b.c", 2), IoError);  // a value cannot hold others
  EXPECT_THROW(writer.add("undefined", Tensor()), ShapeError);
}

TEST(Checkpoint, AnyDamageIsRefused) {
  const TemporaryFolder folder;
  write_sample(folder / "x.h5");
  const std::string good = read_bytes(folder / "x.h5");
  const auto path = folder / "bad.h5";
  const auto refusal = [&](const std::string& bytes) {
    write_bytes(path, bytes);
    const std::string text = error_of<IoError>([&] { CheckpointReader{path}; });
    EXPECT_THAT(text, HasSubstr(path.string()));
    return text;
  };
  for (size_t length = 0; length < good.size(); length += length < 600 ? 17 : 257)
    EXPECT_FALSE(refusal(good.substr(0, length)).empty()) << length;
  std::mt19937 random(1);
  for (int round = 0; round < 150; ++round) {
    std::string bad = good;
    const size_t place = random() % bad.size();
    bad[place] = static_cast<char>(bad[place] ^ (1 << random() % 8));
    EXPECT_FALSE(refusal(bad).empty()) << place;
  }
  EXPECT_THAT(refusal("not HDF5 at all"), HasSubstr("not an HDF5 file"));
  EXPECT_THAT(refusal(""), HasSubstr("it is empty"));
  std::string unsealed = good;
  std::fill(unsealed.begin(), unsealed.begin() + 512, '\0');
  EXPECT_THAT(refusal(unsealed), HasSubstr("not a Weft checkpoint"));
  EXPECT_THAT(error_of<IoError>([&] { CheckpointReader{folder / "none.h5"}; }),
              HasSubstr("No such file"));
}

/// Sealed HDF5 files that are not, or not quite, checkpoints.
class ForgedCheckpoint : public ::testing::Test {
 protected:
  struct Parts {
    std::string table = "a.x INT [] " + kHash + "\n";
    std::string format = "weft-checkpoint";
    int64_t version = 1;
    std::string dtype = "INT";
    bool with_dataset = true;
    bool with_other = false;
    std::optional<std::string> table_hash = std::nullopt;
  };
  static const std::string kHash;  // of the number 7

  std::string refusal(const Parts& parts) {
    Hdf5Writer writer(path_);
    const int64_t seven = 7;
    if (parts.with_dataset) {
      writer.write("/a/x", ElementType::i64, {}, &seven);
      writer.set_attribute("/a/x", "dtype", parts.dtype);
      writer.set_attribute("/a/x", "xxh64", kHash);
    }
    if (parts.with_other) writer.write("/a/y", ElementType::i64, {}, &seven);
    writer.write_text("/table", parts.table);
    writer.set_attribute("/", "format", parts.format);
    writer.set_attribute("/", "format_version", parts.version);
    if (parts.table_hash)
      writer.set_attribute("/", "table_xxh64", *parts.table_hash);
    else
      writer.set_attribute("/", "table_xxh64", hash_of(parts.table));
    writer.commit();
    return error_of<IoError>([&] { CheckpointReader{path_}; });
  }

  /// The hash that a checkpoint gives a text.
  std::string hash_of(const std::string& text) {
    const auto path = folder_ / "hash.h5";
    CheckpointWriter writer(path);
    writer.add_text("t", text);
    writer.commit();
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx",
                  static_cast<unsigned long long>(CheckpointReader(path).entries()[0].hash));
    return digits;
  }

  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_ / "forged.h5";
};
const std::string ForgedCheckpoint::kHash = [] {
  const TemporaryFolder folder;
  CheckpointWriter writer(folder / "x.h5");
  writer.add_int("x", 7);
  writer.commit();
  return *Hdf5Reader(folder / "x.h5").text_attribute("/x", "xxh64");
}();

TEST_F(ForgedCheckpoint, TheTableMustFitTheFile) {
  EXPECT_EQ(refusal({}), "");
  EXPECT_EQ(CheckpointReader(path_).get_int("a.x"), 7);
  EXPECT_THAT(refusal({.format = "other"}), HasSubstr("not a Weft checkpoint"));
  EXPECT_THAT(refusal({.version = 2}),
              HasSubstr("checkpoint format 2, this program reads format 1"));
  EXPECT_THAT(refusal({.table_hash = "0"}), HasSubstr("checksum of its table"));
  EXPECT_THAT(refusal({.with_dataset = false}), HasSubstr("0 datasets besides the table"));
  EXPECT_THAT(refusal({.with_other = true}),
              HasSubstr("2 datasets besides the table, which lists 1"));
  EXPECT_THAT(refusal({.table = ""}), HasSubstr("which lists 0"));
  EXPECT_THAT(refusal({.dtype = "I64"}), HasSubstr("not what its table says"));
  EXPECT_THAT(refusal({.table = "a.x I64 [] " + kHash + "\n"}),
              HasSubstr("not what its table says"));
  EXPECT_THAT(refusal({.table = "a.x INT [] 0000000000000000\n"}), HasSubstr("not what its table"));
  EXPECT_THAT(refusal({.table = "a.y INT [] " + kHash + "\n"}), HasSubstr("has no '/a/y'"));
  const std::string line = "a.x INT [] " + kHash + "\n";
  EXPECT_THAT(refusal({.table = line + line}), HasSubstr("lists 'a.x' twice"));
}

TEST_F(ForgedCheckpoint, MalformedTablesAreRefused) {
  const std::vector<std::string> lines = {"a.x INT [1] " + kHash,
                                          "a.x TEXT [] " + kHash,
                                          "a/x INT [] " + kHash,
                                          "a.x INT  " + kHash,
                                          "a.x INT [] 12",
                                          "a.x WORD [] " + kHash,
                                          "a.x INT [] " + kHash + "0",
                                          "../x INT [] " + kHash,
                                          std::string("a.x"),
                                          std::string(),
                                          "a.x F32 [9223372036854775807,9] " + kHash,
                                          "a.x F32 [4611686018427387904] " + kHash,
                                          "a.x F32 [-1] " + kHash,
                                          "a.x F32 [1,1,1,1,1,1,1,1,1] " + kHash,
                                          "a.x F32 [1,,1] " + kHash,
                                          "a.x U8 [1,] " + kHash,
                                          "a.x U8 [01] " + kHash};
  for (const std::string& line : lines) {
    EXPECT_THAT(refusal({.table = line + "\n"}), HasSubstr("malformed")) << line;
  }
  EXPECT_THAT(refusal({.table = "a.x INT [] " + kHash}), HasSubstr("middle of a line"));
}

TEST(CheckpointFolder, SavesKeepsAndPointsToTheLatest) {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder / "run/checkpoints");
  EXPECT_THAT(checkpoints.steps(), IsEmpty());
  EXPECT_FALSE(checkpoints.newest().has_value());
  for (const int step : {0, 100, 200, 300, 400})
    checkpoints.save(step, 3, [&](CheckpointWriter& writer) { fill_sample(writer, step); });
  EXPECT_THAT(checkpoints.steps(), ElementsAre(200, 300, 400));
  EXPECT_EQ(checkpoints.path_of(1000).filename(), "step-00001000.h5");
  EXPECT_EQ(std::filesystem::read_symlink(checkpoints.path() / "latest"), "step-00000400.h5");
  auto loaded = checkpoints.newest();
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(loaded->step, 400);
  EXPECT_EQ(loaded->reader.get_int("train.step"), 1400);
  EXPECT_THAT(loaded->notices, IsEmpty());
  checkpoints.save(500, -1, [](CheckpointWriter& writer) { fill_sample(writer, 500); });
  EXPECT_THAT(checkpoints.steps(), ElementsAre(200, 300, 400, 500));
  checkpoints.save(500, 1, [](CheckpointWriter& writer) { fill_sample(writer, 501); });
  EXPECT_THAT(checkpoints.steps(), ElementsAre(500));
  EXPECT_EQ(checkpoints.newest()->reader.get_int("train.step"), 1501);
  EXPECT_THROW(checkpoints.save(-1, 1, [](CheckpointWriter&) {}), ConfigError);
  EXPECT_THROW(checkpoints.save(1, 0, [](CheckpointWriter&) {}), ConfigError);
  // A step of nine digits sorts after those of eight.
  checkpoints.save(123456789, 5, [](CheckpointWriter& writer) { fill_sample(writer, 1); });
  EXPECT_EQ(checkpoints.newest()->step, 123456789);
}

TEST(CheckpointFolder, FallsBackToAnOlderOneWhenTheNewestIsDamaged) {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path());
  for (const int step : {1, 2, 3})
    checkpoints.save(step, -1, [&](CheckpointWriter& writer) { fill_sample(writer, step); });
  const std::string good = read_bytes(checkpoints.path_of(3));
  write_bytes(checkpoints.path_of(3), good.substr(0, good.size() / 2));
  write_bytes(folder / "step-00000009.h5", "junk");
  write_bytes(folder / "step-12.h5", "junk");  // not a name that we give
  write_bytes(folder / "step-0000001x.h5", "junk");
  const auto loaded = checkpoints.newest();
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(loaded->step, 2);
  ASSERT_EQ(loaded->notices.size(), 2u);
  EXPECT_THAT(loaded->notices[0], HasSubstr("step-00000009.h5"));
  EXPECT_THAT(loaded->notices[1], HasSubstr("truncated"));
  for (const int step : {1, 2}) write_bytes(checkpoints.path_of(step), "");
  EXPECT_THAT(error_of<IoError>([&] { checkpoints.newest(); }),
              HasSubstr("no checkpoint in '" + folder.path().string() + "' can be used"));
}

TEST(CheckpointFolder, FailedSavesTouchNothing) {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path());
  checkpoints.save(1, 1, [](CheckpointWriter& writer) { fill_sample(writer, 1); });
  {
    const FileSizeLimit full(3000);
    EXPECT_THROW(checkpoints.save(2, 1, [](CheckpointWriter& writer) { fill_sample(writer, 2); }),
                 IoError);
  }
  EXPECT_THROW(checkpoints.save(2, 1,
                                [](CheckpointWriter& writer) {
                                  fill_sample(writer, 2);
                                  throw std::runtime_error("stop");
                                }),
               std::runtime_error);
  EXPECT_THAT(checkpoints.steps(), ElementsAre(1));
  EXPECT_EQ(count_entries(folder.path()), 2);
  EXPECT_EQ(checkpoints.newest()->reader.get_int("train.step"), 1001);
}

TEST(CheckpointFolder, LaterStepsOfAnAbandonedRunAreSetAside) {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path());
  for (const int step : {1, 2, 3})
    checkpoints.save(step, -1, [&](CheckpointWriter& writer) { fill_sample(writer, step); });
  checkpoints.save(2, -1, [](CheckpointWriter& writer) { fill_sample(writer, 77); });
  EXPECT_THAT(checkpoints.steps(), ElementsAre(1, 2));
  EXPECT_EQ(checkpoints.newest()->reader.get_int("train.step"), 1077);
  EXPECT_EQ(CheckpointReader(folder / "superseded-step-00000003.h5").get_int("train.step"), 1003);
}

TEST(CheckpointFolder, LeftoversAreRemovedAndFilesStandInForLinks) {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path());
  write_bytes(folder / "latest", "step-00000000.h5\n");  // as on a file system without links
  checkpoints.save(7, 1, [](CheckpointWriter& writer) { fill_sample(writer); });
  EXPECT_EQ(read_bytes(folder / "latest"), "step-00000007.h5\n");
  EXPECT_EQ(find_checkpoint(folder / "latest"), checkpoints.path_of(7));
  {
    AtomicFile file(folder / "step-00000008.h5");
    std::filesystem::copy_file(file.temporary(), folder / ".step-00000009.h5.weft-tmp-1-1");
  }
  EXPECT_EQ(count_entries(folder.path()), 3);
  checkpoints.remove_leftovers();
  EXPECT_EQ(count_entries(folder.path()), 2);
}

TEST(FindCheckpoint, TakesFilesLinksAndFolders) {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder / "checkpoints");
  EXPECT_THROW(find_checkpoint(folder.path()), IoError);
  EXPECT_THROW(find_checkpoint(folder / "none.h5"), IoError);
  for (const int step : {1, 2})
    checkpoints.save(step, -1, [&](CheckpointWriter& writer) { fill_sample(writer, step); });
  EXPECT_EQ(find_checkpoint(folder.path()), checkpoints.path_of(2));
  EXPECT_EQ(find_checkpoint(checkpoints.path()), checkpoints.path_of(2));
  EXPECT_EQ(find_checkpoint(checkpoints.path_of(1)), checkpoints.path_of(1));
  EXPECT_EQ(CheckpointReader(find_checkpoint(checkpoints.path() / "latest")).get_int("train.step"),
            1002);

  // A copy that followed the link.
  std::filesystem::remove(checkpoints.path() / "latest");
  std::filesystem::copy_file(checkpoints.path_of(1), checkpoints.path() / "latest");
  EXPECT_EQ(find_checkpoint(checkpoints.path() / "latest"), checkpoints.path() / "latest");
  EXPECT_EQ(CheckpointReader(find_checkpoint(checkpoints.path() / "latest")).get_int("train.step"),
            1001);
  // What is neither a checkpoint nor the name of one.
  write_bytes(checkpoints.path() / "latest", "nonsense\n");
  EXPECT_THROW(find_checkpoint(checkpoints.path() / "latest"), IoError);
}

/// A child that saves in a loop, from step `first` on, and tells of every save that is done.
class SavingChild {
 public:
  SavingChild(const CheckpointFolder& checkpoints, int64_t first) {
    std::array<int, 2> ends{};
    if (::pipe(ends.data()) != 0) throw std::runtime_error("pipe failed");
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("fork failed");
    ::close(ends[pid_ == 0 ? 0 : 1]);
    if (pid_ == 0) save_forever(checkpoints, first, ends[1]);
    saves_ = ends[0];
  }
  ~SavingChild() {
    if (pid_ > 0) kill();
    ::close(saves_);
  }
  SavingChild(const SavingChild&) = delete;
  SavingChild& operator=(const SavingChild&) = delete;

  /// Waits until the next save is done; false when the child ended before.
  bool wait_for_save() const {
    char byte = 0;
    return ::read(saves_, &byte, 1) == 1;
  }

  /// Kills it and returns how many saves were done that nobody waited for.
  int64_t kill() {
    ::kill(pid_, SIGKILL);
    int status = 0;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
    EXPECT_TRUE(WIFSIGNALED(status)) << "it ended by itself";
    pid_ = 0;
    int64_t saves = 0;
    while (wait_for_save()) ++saves;
    return saves;
  }

 private:
  [[noreturn]] static void save_forever(const CheckpointFolder& checkpoints, int64_t first,
                                        int report) noexcept {
    for (int64_t step = first;; ++step) {
      checkpoints.save(step, 2, [step](CheckpointWriter& writer) {
        for (const char* name : {"w", "m", "v"})
          writer.add(name, from_vector(std::vector<int64_t>(20000, step), {20000}));
        writer.add_int("step", step);
      });
      if (::write(report, "s", 1) != 1) ::_exit(1);
    }
  }

  pid_t pid_ = 0;
  int saves_ = -1;
};

/// Kills at random moments of a save, 100 times. What was saved is never lost.
TEST(SlowCheckpointFolder, SurvivesKillAtAnyMoment) {
  using Clock = std::chrono::steady_clock;
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path());
  checkpoints.save(0, 2, [](CheckpointWriter& writer) {
    writer.add("w", from_vector(std::vector<int64_t>(20000, 0), {20000}));
    writer.add_int("step", 0);
  });
  std::mt19937 random(1);
  std::uniform_real_distribution<double> part(0, 1);
  int64_t last = 0;
  int interrupted = 0;
  for (int round = 0; round < 100; ++round) {
    SavingChild child(checkpoints, last + 1);
    ASSERT_TRUE(child.wait_for_save());
    const auto start = Clock::now();
    ASSERT_TRUE(child.wait_for_save());
    std::this_thread::sleep_for((Clock::now() - start) * part(random));
    const int64_t done = last + 2 + child.kill();
    const auto loaded = checkpoints.newest();
    ASSERT_TRUE(loaded.has_value());
    EXPECT_THAT(loaded->notices, IsEmpty());
    // The last save may be complete without the child having said so.
    EXPECT_GE(loaded->step, done);
    EXPECT_LE(loaded->step, done + 1);
    EXPECT_EQ(loaded->reader.get_int("step"), loaded->step);
    for (const int64_t value : loaded->reader.tensor("w").to_vector<int64_t>())
      ASSERT_EQ(value, loaded->step);
    EXPECT_NO_THROW(CheckpointReader(folder / "latest"));
    bool is_interrupted = false;
    for (const auto& item : std::filesystem::directory_iterator(folder.path()))
      is_interrupted |= is_temporary(item.path());
    interrupted += is_interrupted;
    checkpoints.remove_leftovers();
    last = loaded->step;
  }
  checkpoints.save(last + 1, 2, [](CheckpointWriter& writer) { fill_sample(writer); });
  EXPECT_EQ(checkpoints.steps().size(), 2u);
  EXPECT_GT(interrupted, 30) << "most moments lie within a save";
}

}  // namespace
}  // namespace weft::io
