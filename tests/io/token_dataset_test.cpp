#include "weft/io/token_dataset.h"

#include <cstring>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include "weft/io/hdf5.h"
#include "weft/io/loader.h"
#include "weft/tensor/error.h"

#include "file_size_limit.h"
#include "temporary_folder.h"

namespace weft::io {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int32_t> random_ids(size_t count, int32_t vocab_size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<unsigned>(vocab_size));
  return ids;
}

/// A char tokenizer with a vocabulary that does not fit in two bytes.
std::shared_ptr<const Tokenizer> large_tokenizer() {
  std::string characters;
  for (uint32_t c = 0x10000; c < 0x10000 + 70000; ++c) {
    for (const uint32_t byte :
         {0xF0 | c >> 18, 0x80 | (c >> 12 & 63), 0x80 | (c >> 6 & 63), 0x80 | (c & 63)})
      characters.push_back(static_cast<char>(byte));
  }
  return make_char_tokenizer(characters);
}

TEST(TokenDataset, WritesInPiecesAndReadsSlices) {
  const TemporaryFolder folder;
  for (const auto& tokenizer : {make_tokenizer("bytes"), large_tokenizer()}) {
    const auto path = folder / "data.h5";
    const auto ids = random_ids(100'000, static_cast<int32_t>(tokenizer->vocab_size()), 1);
    TokenDatasetWriter writer(path, tokenizer);
    std::mt19937 random(2);
    for (size_t start = 0; start < ids.size();) {
      const size_t count = std::min<size_t>(random() % 50'000, ids.size() - start);
      writer.append(Split::train, std::span(ids).subspan(start, count));
      start += count;
    }
    writer.append(Split::valid, std::span(ids).first(7));
    EXPECT_EQ(writer.size(Split::train), 100'000);
    EXPECT_EQ(writer.size(Split::valid), 7);
    writer.commit();
    for (const int64_t cache : {int64_t{0}, int64_t{1} << 30}) {
      const TokenDataset data(path, cache);
      EXPECT_EQ(data.tokenizer()->hash(), tokenizer->hash());
      EXPECT_EQ(data.vocab_size(), tokenizer->vocab_size());
      EXPECT_EQ(data.valid()->slice(0, 7), std::vector<int32_t>(ids.begin(), ids.begin() + 7));
      EXPECT_EQ(data.train()->slice(0, 100'000), ids);
      for (int i = 0; i < 200; ++i) {
        const auto start = static_cast<int64_t>(random() % 100'000);
        const auto count =
            std::min<int64_t>(static_cast<int64_t>(random() % 40'000), 100'000 - start);
        EXPECT_EQ(data.train()->slice(start, count),
                  std::vector<int32_t>(ids.begin() + start, ids.begin() + start + count));
      }
      EXPECT_THROW(data.train()->slice(99'999, 2), IndexError);
    }
  }
}

TEST(TokenDataset, HasTheDocumentedLayout) {
  const TemporaryFolder folder;
  const auto tokenizer = make_char_tokenizer("abc");
  TokenDatasetWriter writer(folder / "data.h5", tokenizer);
  writer.append(Split::train, tokenizer->encode("abcabc"));
  writer.commit();
  const Hdf5Reader file(folder / "data.h5");
  EXPECT_THAT(file.children("/"), ElementsAre("tokenizer", "train", "valid"));
  EXPECT_EQ(file.info("/train/tokens").type, ElementType::u16);
  EXPECT_EQ(file.info("/train/tokens").shape, (std::vector<int64_t>{6}));
  EXPECT_EQ(file.info("/valid/tokens").shape, (std::vector<int64_t>{0}));
  EXPECT_EQ(file.int_attribute("/", "vocab_size"), 3);
  EXPECT_EQ(file.int_attribute("/", "format_version"), 1);
  EXPECT_EQ(file.text_attribute("/", "tokenizer"), "char");
  EXPECT_EQ(file.text_attribute("/", "tokenizer_hash"), tokenizer->hash());
  EXPECT_EQ(file.read_text("/tokenizer"), tokenizer->to_json());
  EXPECT_EQ(TokenDataset(folder / "data.h5").valid()->size(), 0);
  EXPECT_TRUE(is_hdf5_file(folder / "data.h5"));
  write_bytes(folder / "text", "text");
  EXPECT_FALSE(is_hdf5_file(folder / "text"));
  EXPECT_FALSE(is_hdf5_file(folder / "none"));
}

TEST(TokenDataset, IdsOutsideTheVocabularyAreRefusedWithTheirPosition) {
  const TemporaryFolder folder;
  TokenDatasetWriter writer(folder / "data.h5", make_char_tokenizer("abc"));
  writer.append(Split::train, std::vector<int32_t>(50'000, 1));
  EXPECT_THAT(error_of<IndexError>([&] {
                writer.append(Split::train, std::vector<int32_t>{0, 3});
              }),
              HasSubstr("token id 3 at position 50001 is outside the vocabulary of 3"));
  EXPECT_THROW(writer.append(Split::valid, std::vector<int32_t>{-1}), IndexError);
}

TEST(TokenDataset, SeveralThreadsMayReadAtOnce) {
  const TemporaryFolder folder;
  const auto ids = random_ids(300'000, 256, 1);
  TokenDatasetWriter writer(folder / "data.h5", make_tokenizer("bytes"));
  writer.append(Split::train, ids);
  writer.commit();
  const TokenDataset data(folder / "data.h5", 3 * 65536);
  std::vector<std::jthread> threads;
  std::atomic<int> wrong{0};
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 100; ++i) {
        const auto start = static_cast<int64_t>(random() % 299'000);
        const auto slice = data.train()->slice(start, 1000);
        if (!std::equal(slice.begin(), slice.end(), ids.begin() + start)) ++wrong;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(wrong, 0);
}

TEST(TokenDataset, FeedsTheLoaderLikeMemory) {
  const TemporaryFolder folder;
  const auto ids = random_ids(5000, 256, 1);
  TokenDatasetWriter writer(folder / "data.h5", make_tokenizer("bytes"));
  writer.append(Split::train, ids);
  writer.commit();
  const auto memory = std::make_shared<MemoryTokens>("memory", 256);
  memory->append(ids);
  Loader from_file(TokenDataset(folder / "data.h5").train(), {.batch_size = 3, .seq_len = 50});
  Loader from_memory(memory, {.batch_size = 3, .seq_len = 50});
  for (int i = 0; i < 100; ++i)
    EXPECT_EQ(from_file.next().inputs.to_vector<int32_t>(),
              from_memory.next().inputs.to_vector<int32_t>());
  EXPECT_THAT(error_of<ConfigError>(
                  [&] { Loader(TokenDataset(folder / "data.h5").train(), {.seq_len = 5000}); }),
              HasSubstr("train split of '" + (folder / "data.h5").string() +
                        "' has 5000 tokens, and a sequence of 5000 needs 5001"));
}

TEST(TokenDataset, FullDiskLeavesNothing) {
  const TemporaryFolder folder;
  const FileSizeLimit full(20'000);
  EXPECT_THROW(
      {
        TokenDatasetWriter writer(folder / "data.h5", make_tokenizer("bytes"));
        writer.append(Split::train, random_ids(200'000, 256, 1));
        writer.commit();
      },
      IoError);
  EXPECT_EQ(count_entries(folder.path()), 0);
}

/// Datasets that another program wrote.
class ForeignDataset : public ::testing::Test {
 protected:
  struct Parts {
    std::vector<uint16_t> train = {1, 2, 3, 255};
    std::string tokenizer = "bytes";
    int64_t vocab_size = 256;
    int64_t version = 1;
    hid_t type = H5T_STD_U16LE;
    bool with_train = true;
  };

  void make(const Parts& parts) {
    const hid_t file = H5Fcreate(path_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    if (parts.with_train) {
      const hid_t group = H5Gcreate2(file, "train", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
      const hsize_t count = parts.train.size();
      const hid_t space = H5Screate_simple(1, &count, nullptr);
      const hid_t tokens =
          H5Dcreate2(group, "tokens", parts.type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
      H5Dwrite(tokens, H5T_NATIVE_USHORT, H5S_ALL, H5S_ALL, H5P_DEFAULT, parts.train.data());
      H5Dclose(tokens);
      H5Sclose(space);
      H5Gclose(group);
    }
    const hid_t scalar = H5Screate(H5S_SCALAR);
    for (const auto& [name, value] :
         {std::pair{"vocab_size", parts.vocab_size}, std::pair{"format_version", parts.version}}) {
      const hid_t made = H5Acreate2(file, name, H5T_STD_I32BE, scalar, H5P_DEFAULT, H5P_DEFAULT);
      H5Awrite(made, H5T_NATIVE_INT64, &value);
      H5Aclose(made);
    }
    const hid_t text = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, H5T_VARIABLE);
    const hid_t made = H5Acreate2(file, "tokenizer", text, scalar, H5P_DEFAULT, H5P_DEFAULT);
    const char* name = parts.tokenizer.c_str();
    H5Awrite(made, text, &name);
    H5Aclose(made);
    H5Tclose(text);
    H5Sclose(scalar);
    H5Fclose(file);
  }
  std::string refusal(const Parts& parts) {
    make(parts);
    return error_of<IoError>([this] { TokenDataset{path_}; });
  }

  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_ / "foreign.h5";
};

TEST_F(ForeignDataset, OfTheSameLayoutIsRead) {
  make({});
  const TokenDataset data(path_);
  EXPECT_EQ(data.train()->slice(0, 4), (std::vector<int32_t>{1, 2, 3, 255}));
  EXPECT_EQ(data.valid()->size(), 0);
  make({.type = H5T_STD_U32BE});
  EXPECT_EQ(TokenDataset(path_).train()->slice(0, 4), (std::vector<int32_t>{1, 2, 3, 255}));
}

TEST_F(ForeignDataset, OfAnotherLayoutIsRefused) {
  EXPECT_THAT(refusal({.train = {1, 256}}),
              HasSubstr("token id 256 at position 1 is outside the vocabulary of 256"));
  EXPECT_THAT(refusal({.tokenizer = "gpt2"}), HasSubstr("definition of its tokenizer 'gpt2'"));
  EXPECT_THAT(refusal({.vocab_size = 300}), HasSubstr("of 300 tokens, but defines 'bytes' of 256"));
  EXPECT_THAT(refusal({.version = 3}), HasSubstr("dataset format 3, this program reads format 1"));
  EXPECT_THAT(refusal({.type = H5T_STD_I16LE}), HasSubstr("holds i16, expected u16 or u32"));
  EXPECT_THAT(refusal({.with_train = false}), HasSubstr("not a token dataset"));
}

TEST_F(ForeignDataset, DamageNeverCrashes) {
  make({});
  const std::string good = read_bytes(path_);
  std::mt19937 random(3);
  for (int round = 0; round < 150; ++round) {
    std::string bad = good;
    if (round % 3 == 0) {
      bad.resize(random() % good.size());
    } else {
      for (int flips = 0; flips <= round % 3; ++flips)
        bad[random() % bad.size()] = static_cast<char>(random());
    }
    write_bytes(path_, bad);
    error_of<Error>([this] { TokenDataset(path_).train()->slice(0, 1); });
  }
}

TEST(TokenDataset, DamageToOurFilesIsAlwaysNoticed) {
  const TemporaryFolder folder;
  const auto path = folder / "data.h5";
  TokenDatasetWriter writer(path, make_tokenizer("bytes"));
  writer.append(Split::train, random_ids(3000, 256, 1));
  writer.commit();
  const std::string good = read_bytes(path);
  std::mt19937 random(3);
  for (int round = 0; round < 100; ++round) {
    std::string bad = good;
    if (round % 3 == 0) {
      bad.resize(8 + random() % (good.size() - 8));
    } else {
      const size_t place = 8 + random() % (bad.size() - 8);
      bad[place] = static_cast<char>(bad[place] ^ (1 << random() % 8));
    }
    write_bytes(path, bad);
    EXPECT_THROW(TokenDataset{path}, IoError);
  }
}

}  // namespace
}  // namespace weft::io
