#include <filesystem>
#include <fstream>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft_process.h"

namespace weft::apps {
namespace {

using testing::HasSubstr;

std::string preset(const std::string& name) {
  return WEFT_SOURCE_DIR "/apps/configs/" + name;
}

/// Parameters of a decoder with d_ff and as many key heads as query heads.
int64_t count_parameters(int64_t vocab, int64_t layers, int64_t width, int64_t d_ff, bool tied) {
  const int64_t block = 4 * width * width + 3 * width * d_ff + 2 * width;
  return (tied ? 1 : 2) * vocab * width + layers * block + width;
}

/// A text that holds each of `count` characters once.
std::string every_character(int count) {
  std::string text;
  // The ideographs from U+4E00 on, then those from U+20000 on.
  for (int i = 0; i < count; ++i) {
    const int code = i < 20000 ? 0x4E00 + i : 0x20000 + i - 20000;
    if (code < 0x10000) {
      text += static_cast<char>(0xE0 | code >> 12);
    } else {
      text += static_cast<char>(0xF0 | code >> 18);
      text += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    }
    text += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    text += static_cast<char>(0x80 | (code & 0x3F));
  }
  return text;
}

TEST(Presets, AllAreConfigFiles) {
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator(preset(""))) {
    SCOPED_TRACE(entry.path());
    const Outcome printed = weft({"train", "--config", entry.path().string(), "--data",
                                  "builtin:stories", "--print-config"});
    EXPECT_EQ(printed.code, 0) << printed.err;
    EXPECT_THAT(printed.out, HasSubstr("# from the config file\n"));
    ++found;
  }
  EXPECT_GE(found, 4);
}

TEST(Presets, TinyTrainsWithoutAnyData) {
  const TemporaryFolder folder;
  const std::string run = (folder / "run").string();
  const Outcome trained = weft({"train", "--config", preset("tiny.ini"), "--out-dir", run,
                                "--max-steps", "20", "--eval-sequences", "2"});
  EXPECT_EQ(trained.code, 0) << trained.err;
  EXPECT_THAT(read_bytes(run + "/train.log"), HasSubstr("step 00020/00020"));
}

TEST(Presets, CharacterModelHasTenMillionParameters) {
  const TemporaryFolder folder;
  write_bytes(folder / "text.txt", every_character(80));
  const Outcome dry =
      weft({"train", "--config", preset("kjv-char.ini"), "--data", (folder / "text.txt").string(),
            "--seq-len", "16", "--sample-every", "-1", "--dry-run"});
  EXPECT_EQ(dry.code, 0) << dry.err;
  EXPECT_THAT(dry.err, HasSubstr("model       10.7M parameters"));
  EXPECT_EQ(count_parameters(80, 6, 384, 1024, false), 10683264);
}

TEST(SlowPresets, SmallGptHas124MillionParameters) {
  const TemporaryFolder folder;
  write_bytes(folder / "text.txt", every_character(50304));
  const Outcome dry =
      weft({"train", "--config", preset("124m.ini"), "--tokenizer", "char", "--data",
            (folder / "text.txt").string(), "--sample-every", "-1", "--dry-run"});
  EXPECT_EQ(dry.code, 0) << dry.err;
  EXPECT_THAT(dry.err, HasSubstr("model       123.6M parameters"));
  EXPECT_EQ(count_parameters(50304, 12, 768, 2048, true), 123587328);
}

}  // namespace
}  // namespace weft::apps
