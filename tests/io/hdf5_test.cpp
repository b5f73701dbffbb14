#include "weft/io/hdf5.h"

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include "weft/io/atomic_file.h"
#include "weft/io/guarded.h"
#include "weft/tensor/error.h"
#include "weft/tensor/half.h"

#include "file_size_limit.h"
#include "temporary_folder.h"

namespace weft::io {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr ElementType kTypes[] = {ElementType::u8,  ElementType::i8,  ElementType::u16,
                                  ElementType::i16, ElementType::u32, ElementType::i32,
                                  ElementType::u64, ElementType::i64, ElementType::f16,
                                  ElementType::f32, ElementType::f64};

std::string random_bytes(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

void write_sample(const std::filesystem::path& path) {
  Hdf5Writer writer(path);
  const std::vector<float> values = {1.5f, -2.0f, 3.25f, 0.0f, 5.0f, 6.0f};
  const std::vector<int64_t> shape = {2, 3};
  writer.write("/a/b/values", ElementType::f32, shape, values.data());
  writer.write_text("/text", "some text\n");
  writer.create_stream("/a/stream", ElementType::u16, 100);
  std::vector<uint16_t> numbers(1234);
  std::iota(numbers.begin(), numbers.end(), uint16_t{0});
  writer.append("/a/stream", numbers.data(), 1000);
  writer.append("/a/stream", numbers.data() + 1000, 234);
  writer.set_attribute("/", "format", "sample");
  writer.set_attribute("/a", "count", int64_t{-7});
  writer.set_attribute("/a/b/values", "scale", 0.25);
  writer.commit();
}

/// Reads all of write_sample(); throws or returns the content as one string.
std::string read_sample(const std::filesystem::path& path) {
  const Hdf5Reader reader(path);
  std::string content = reader.read_text("/text") + *reader.text_attribute("/", "format");
  std::vector<float> values(6);
  reader.read("/a/b/values", ElementType::f32, values.data(), 6);
  for (const float value : values) content += std::to_string(value);
  std::vector<uint16_t> numbers(static_cast<size_t>(reader.info("/a/stream").numel));
  reader.read("/a/stream", ElementType::u16, numbers.data(), static_cast<int64_t>(numbers.size()));
  for (const uint16_t number : numbers) content += std::to_string(number);
  for (const std::string& name : reader.children("/a")) content += name;
  return content + std::to_string(reader.int_attribute("/a", "count").value_or(0));
}

TEST(Hdf5, EveryTypeAndShapeComesBackBitForBit) {
  const TemporaryFolder folder;
  const std::vector<std::vector<int64_t>> shapes = {
      {}, {1}, {0}, {15}, {3, 0, 2}, {2, 3, 4}, {1, 1, 1, 1, 1, 1, 1, 2}};
  unsigned seed = 0;
  for (const ElementType type : kTypes) {
    for (const auto& shape : shapes) {
      const int64_t numel =
          std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
      const size_t bytes = static_cast<size_t>(numel) * size_of(type);
      const std::string data = random_bytes(bytes, ++seed);  // NaNs of every kind among them
      const auto path = folder / "x.h5";
      Hdf5Writer writer(path);
      writer.write("/x", type, shape, data.data());
      writer.commit();
      const Hdf5Reader reader(path);
      EXPECT_TRUE(reader.is_sealed());
      const DatasetInfo info = reader.info("/x");
      EXPECT_EQ(info.type, type);
      EXPECT_EQ(info.shape, shape);
      EXPECT_EQ(info.numel, numel);
      std::string again(bytes, '\1');
      reader.read("/x", type, again.data(), numel);
      EXPECT_EQ(again, data) << to_string(type);
      EXPECT_THROW(reader.read("/x", type, again.data(), numel + 1), IoError);
      const ElementType other = type == ElementType::u8 ? ElementType::i8 : ElementType::u8;
      EXPECT_THAT(error_of<IoError>([&] { reader.read("/x", other, again.data(), numel); }),
                  HasSubstr("holds " + std::string(to_string(type))));
    }
  }
}

TEST(Hdf5, ForeignProgramsReadHalfPrecisionAsNumbers) {
  const TemporaryFolder folder;
  const std::vector<f16> halves = {f16(1.5f), f16(-65504.0f), f16(0.000061035f), f16(0.0f)};
  const int64_t count = 4;
  Hdf5Writer writer(folder / "x.h5");
  writer.write("/x", ElementType::f16, {&count, 1}, halves.data());
  writer.commit();
  // The library itself, without anything of ours.
  const hid_t file = H5Fopen((folder / "x.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  const hid_t dataset = H5Dopen2(file, "/x", H5P_DEFAULT);
  std::vector<float> values(4);
  EXPECT_GE(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
  H5Dclose(dataset);
  H5Fclose(file);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], static_cast<float>(halves[i]));
}

TEST(Hdf5, GroupsStreamsAndAttributes) {
  const TemporaryFolder folder;
  const auto path = folder / "x.h5";
  write_sample(path);
  const Hdf5Reader reader(path);
  EXPECT_THAT(reader.children("/"), ElementsAre("a", "text"));
  EXPECT_THAT(reader.children("/a"), ElementsAre("b", "stream"));
  EXPECT_TRUE(reader.is_group("/a/b"));
  EXPECT_FALSE(reader.is_group("/text"));
  EXPECT_TRUE(reader.has("/a/b/values"));
  EXPECT_FALSE(reader.has("/a/c"));
  EXPECT_FALSE(reader.has("/x/y/z"));
  EXPECT_EQ(reader.read_text("/text"), "some text\n");
  EXPECT_EQ(reader.text_attribute("/", "format"), "sample");
  EXPECT_EQ(reader.int_attribute("/a", "count"), -7);
  EXPECT_EQ(reader.double_attribute("/a/b/values", "scale"), 0.25);
  EXPECT_FALSE(reader.int_attribute("/a", "none").has_value());
  EXPECT_THROW(reader.text_attribute("/a", "count"), IoError);
  EXPECT_THROW(reader.int_attribute("/", "format"), IoError);
  EXPECT_THROW(reader.children("/text"), IoError);
  EXPECT_THROW(reader.info("/a"), IoError);
  EXPECT_THROW(reader.read_text("/text", 3), IoError);
  EXPECT_THAT(error_of<IoError>([&] { reader.info("/a/none"); }), HasSubstr("it has no '/a/none'"));
  const DatasetInfo info = reader.info("/a/stream");
  EXPECT_EQ(info.numel, 1234);
  EXPECT_EQ(info.chunk, 100);
  for (const auto& [start, count] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 1234}, {0, 1}, {99, 2}, {1233, 1}, {150, 700}, {1234, 0}}) {
    std::vector<uint16_t> slice(static_cast<size_t>(count));
    reader.read_slice("/a/stream", ElementType::u16, start, count, slice.data());
    for (size_t i = 0; i < slice.size(); ++i) EXPECT_EQ(slice[i], start + static_cast<int64_t>(i));
  }
  uint16_t one = 0;
  EXPECT_THROW(reader.read_slice("/a/stream", ElementType::u16, 1234, 1, &one), IndexError);
  EXPECT_THROW(reader.read_slice("/a/stream", ElementType::u16, -1, 1, &one), IndexError);
  EXPECT_THROW(reader.read_slice("/a/stream", ElementType::u16, 1, INT64_MAX, &one), IndexError);
}

TEST(Hdf5, EqualContentGivesEqualBytes) {
  const TemporaryFolder folder;
  write_sample(folder / "a.h5");
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5 counts time in seconds
  write_sample(folder / "b.h5");
  EXPECT_EQ(read_bytes(folder / "a.h5"), read_bytes(folder / "b.h5"));
}

TEST(Hdf5, WriterMistakesAreErrorsAndLeaveNoFile) {
  const TemporaryFolder folder;
  {
    Hdf5Writer writer(folder / "x.h5");
    const int64_t one = 1;
    const double value = 1;
    writer.write("/x", ElementType::f64, {&one, 1}, &value);
    EXPECT_THROW(writer.write("/x", ElementType::f64, {&one, 1}, &value), IoError);
    EXPECT_THROW(writer.write("/x/y", ElementType::f64, {&one, 1}, &value), IoError);
    EXPECT_THROW(writer.set_attribute("/none", "a", "b"), IoError);
    EXPECT_THROW(writer.append("/x", &value, 1), ConfigError);
    EXPECT_THROW(writer.create_stream("/s", ElementType::u8, 0), ConfigError);
    EXPECT_THROW(writer.set_attribute("/", "long", std::string(40000, 'x')), ConfigError);
    EXPECT_THROW(writer.write("/o", ElementType::other, {&one, 1}, &value), DTypeError);
  }
  EXPECT_EQ(count_entries(folder.path()), 0);
}

/// A full disk at every stage: the HDF5 library's own driver crashes here.
TEST(Hdf5, FullDiskAtAnyMomentKeepsTheOldFile) {
  const TemporaryFolder folder;
  const auto path = folder / "x.h5";
  write_sample(path);
  const std::string old = read_bytes(path);
  for (size_t limit = 0; limit < old.size(); limit += limit < 2000 ? 97 : 331) {
    std::string text;
    {
      const FileSizeLimit full(limit);
      text = error_of<IoError>([&] { write_sample(path); });
    }
    EXPECT_THAT(text, HasSubstr("File too large")) << limit;
    EXPECT_THAT(text, HasSubstr(path.string()));
    EXPECT_EQ(read_bytes(path), old);
    EXPECT_EQ(count_entries(folder.path()), 1);
  }
  {
    const FileSizeLimit enough(old.size());
    write_sample(path);
  }
  EXPECT_EQ(read_bytes(path), old);
}

TEST(Hdf5, FullDiskInTheMiddleOfALargeArray) {
  const TemporaryFolder folder;
  std::vector<double> values(200'000);
  const auto count = static_cast<int64_t>(values.size());
  const FileSizeLimit full(500'000);
  Hdf5Writer writer(folder / "x.h5");
  EXPECT_THROW(writer.write("/x", ElementType::f64, {&count, 1}, values.data()), IoError);
  EXPECT_THROW(writer.write("/y", ElementType::f64, {&count, 1}, values.data()), IoError);
  EXPECT_THROW(writer.commit(), IoError);
}

TEST(Hdf5, DamageToASealedFileIsAlwaysNoticed) {
  const TemporaryFolder folder;
  write_sample(folder / "x.h5");
  const std::string good = read_bytes(folder / "x.h5");
  ASSERT_FALSE(read_sample(folder / "x.h5").empty());
  const auto path = folder / "bad.h5";
  for (size_t length = 0; length < good.size(); length += length < 600 ? 13 : 101) {
    write_bytes(path, good.substr(0, length));
    EXPECT_THROW(Hdf5Reader{path}, IoError) << length;
  }
  write_bytes(path, good + "x");
  EXPECT_THAT(error_of<IoError>([&] { Hdf5Reader{path}; }), HasSubstr("1 bytes more"));
  write_bytes(path, good.substr(0, 2000));
  EXPECT_THAT(error_of<IoError>([&] { Hdf5Reader{path}; }), HasSubstr("truncated: 2000 of"));
  std::mt19937 random(1);
  // The first eight bytes say that there is a seal; without them the file counts as foreign.
  for (size_t place = 8; place < good.size(); place += 1 + random() % 40) {
    std::string bad = good;
    bad[place] = static_cast<char>(bad[place] ^ (1 << random() % 8));
    write_bytes(path, bad);
    EXPECT_THAT(error_of<IoError>([&] { Hdf5Reader{path}; }), HasSubstr("damaged")) << place;
  }
}

TEST(Hdf5, ForeignFilesAreRefused) {
  const TemporaryFolder folder;
  const auto path = folder / "x.h5";
  for (const std::string& text : {std::string("hello"), std::string(5000, '\0'),
                                  random_bytes(10000, 1), std::string("WEFTSEAL")}) {
    write_bytes(path, text);
    EXPECT_THROW(Hdf5Reader{path}, IoError);
  }
  write_bytes(path, "");
  EXPECT_THAT(error_of<IoError>([&] { Hdf5Reader{path}; }), HasSubstr("it is empty"));
  EXPECT_THAT(error_of<IoError>([&] { Hdf5Reader{folder / "none"}; }), HasSubstr("No such file"));
  EXPECT_THAT(error_of<IoError>([&] { Hdf5Reader{folder.path()}; }), HasSubstr("is a folder"));
  EXPECT_THAT(error_of<IoError>([&] { Hdf5Reader{"/dev/null"}; }), HasSubstr("not a regular file"));
}

/// Without its seal a damaged file reaches the HDF5 library, which may crash on it: in a child.
TEST(Hdf5, DamageWithoutASealIsContainedInAChild) {
  const TemporaryFolder folder;
  write_sample(folder / "x.h5");
  std::string good = read_bytes(folder / "x.h5");
  std::fill(good.begin(), good.begin() + 512, '\0');
  const auto path = folder / "bad.h5";
  write_bytes(path, good);
  EXPECT_FALSE(Hdf5Reader(path).is_sealed());
  const std::string content = read_sample(path);
  std::mt19937 random(5);
  int refused = 0;
  for (int round = 0; round < 150; ++round) {
    std::string bad = good;
    if (round % 3 == 0) {
      bad.resize(512 + random() % (good.size() - 512));
    } else {
      for (int flips = 0; flips < 1 + round % 4; ++flips)
        bad[512 + random() % (good.size() - 512)] = static_cast<char>(random());
    }
    write_bytes(path, bad);
    try {
      try_in_child(
          path.string(), [&] { read_sample(path); }, 5);
      read_sample(path);
    } catch (const IoError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 50);
}

TEST(TryInChild, PassesErrorsOnAndContainsCrashes) {
  int here = 0;
  try_in_child("x", [&] { here = 1; });
  EXPECT_EQ(here, 0);
  EXPECT_EQ(error_of<IoError>([] { try_in_child("x", [] { throw IoError("the reason"); }); }),
            "the reason");
  EXPECT_THAT(error_of<IoError>([] { try_in_child("file", [] { std::raise(SIGSEGV); }); }),
              HasSubstr("'file': it is damaged (its structure crashes"));
  EXPECT_THROW(try_in_child("x", [] { throw std::runtime_error("other"); }), IoError);
  EXPECT_THAT(error_of<IoError>([] {
                try_in_child(
                    "x",
                    [] {
                      for (std::atomic<int> i = 0;; ++i) {
                      }
                    },
                    1);
              }),
              HasSubstr("does not end"));
}

/// Files that the HDF5 library likes and that would hurt whoever believes them.
class HostileHdf5 : public ::testing::Test {
 protected:
  void SetUp() override {
    file_ = H5Fcreate(path_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  }
  void make_dataset(const char* name, std::vector<hsize_t> sizes, hid_t type, hid_t properties) {
    const hid_t space = H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr);
    const hid_t dataset =
        H5Dcreate2(file_, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    ASSERT_GE(dataset, 0);
    H5Dclose(dataset);
    H5Sclose(space);
  }
  std::string info_error(const char* name) {
    H5Fclose(file_);
    file_ = -1;
    return error_of<IoError>([&] { Hdf5Reader(path_).info(name); });
  }
  void TearDown() override {
    if (file_ >= 0) H5Fclose(file_);
  }

  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_ / "hostile.h5";
  hid_t file_ = -1;
};

TEST_F(HostileHdf5, SizesWithoutStorage) {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  const hsize_t chunk = 1024;
  H5Pset_chunk(properties, 1, &chunk);
  make_dataset("x", {hsize_t{1} << 50}, H5T_STD_U16LE, properties);
  H5Pclose(properties);
  EXPECT_THAT(info_error("/x"), HasSubstr("claims 1125899906842624 elements"));
}

TEST_F(HostileHdf5, SizesThatOverflow) {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  const std::vector<hsize_t> chunk = {1, 1, 1};
  H5Pset_chunk(properties, 3, chunk.data());
  make_dataset("x", {hsize_t{1} << 30, hsize_t{1} << 30, hsize_t{1} << 2}, H5T_STD_U8LE,
               properties);
  H5Pclose(properties);
  EXPECT_FALSE(info_error("/x").empty());
}

TEST_F(HostileHdf5, HugeChunks) {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  const hsize_t chunk = hsize_t{1} << 31;
  H5Pset_chunk(properties, 1, &chunk);
  H5Pset_deflate(properties, 1);
  make_dataset("x", {hsize_t{1} << 31}, H5T_STD_U8LE, properties);
  H5Pclose(properties);
  EXPECT_THAT(info_error("/x"), HasSubstr("chunks of '/x' are too large"));
}

TEST_F(HostileHdf5, StorageInOtherFiles) {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(properties, "/etc/passwd", 0, 100);
  make_dataset("x", {100}, H5T_STD_U8LE, properties);
  H5Pclose(properties);
  EXPECT_THAT(info_error("/x"), HasSubstr("in another file"));
}

TEST_F(HostileHdf5, LinksOutOfTheFile) {
  H5Lcreate_external("/etc/other.h5", "/x", file_, "x", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("/x", file_, "y", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file_);
  file_ = -1;
  const Hdf5Reader reader(path_);
  EXPECT_THAT(error_of<IoError>([&] { reader.info("/x"); }), HasSubstr("link"));
  EXPECT_THAT(error_of<IoError>([&] { reader.info("/y"); }), HasSubstr("link"));
}

TEST_F(HostileHdf5, OtherFiltersAndTypes) {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  const hsize_t chunk = 16;
  H5Pset_chunk(properties, 1, &chunk);
  H5Pset_scaleoffset(properties, H5Z_SO_INT, 0);
  make_dataset("x", {16}, H5T_STD_I32LE, properties);
  H5Pclose(properties);
  make_dataset("y", {16}, H5T_STD_REF_OBJ, H5P_DEFAULT);
  H5Fclose(file_);
  file_ = -1;
  const Hdf5Reader reader(path_);
  EXPECT_THAT(error_of<IoError>([&] { reader.info("/x"); }), HasSubstr("uses HDF5 filter 6"));
  EXPECT_EQ(reader.info("/y").type, ElementType::other);
}

TEST_F(HostileHdf5, TextOfVariableLengthAsH5pyWritesIt) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(file_, "tokenizer", type, space, H5P_DEFAULT, H5P_DEFAULT);
  const char* text = "bytes";
  H5Awrite(attribute, type, &text);
  H5Aclose(attribute);
  const hsize_t many = 3;
  const hid_t list = H5Screate_simple(1, &many, nullptr);
  H5Aclose(H5Acreate2(file_, "list", H5T_STD_I64LE, list, H5P_DEFAULT, H5P_DEFAULT));
  H5Sclose(list);
  H5Sclose(space);
  H5Tclose(type);
  H5Fclose(file_);
  file_ = -1;
  const Hdf5Reader reader(path_);
  EXPECT_EQ(reader.text_attribute("/", "tokenizer"), "bytes");
  EXPECT_THAT(error_of<IoError>([&] { reader.int_attribute("/", "list"); }),
              HasSubstr("not a single value"));
}

}  // namespace
}  // namespace weft::io
