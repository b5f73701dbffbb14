#include "weft/io/tensorboard.h"

#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "file_size_limit.h"
#include "temporary_folder.h"

namespace weft::io {
namespace {

using ::testing::HasSubstr;

/// Bit by bit, from the polynomial.
uint32_t slow_crc32c(std::string_view bytes) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0u);
  }
  return ~crc;
}

template <class T>
T raw(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

/// A protocol buffer message: the values of each field, in order.
struct Message {
  std::map<int, std::vector<uint64_t>> numbers;
  std::map<int, std::vector<std::string>> texts;

  explicit Message(std::string_view bytes) {
    const auto varint = [&bytes] {
      uint64_t value = 0;
      for (int shift = 0;; shift += 7) {
        const auto byte = static_cast<unsigned char>(bytes.at(0));
        bytes.remove_prefix(1);
        value |= static_cast<uint64_t>(byte & 0x7F) << shift;
        if (byte < 0x80) return value;
      }
    };
    while (!bytes.empty()) {
      const uint64_t key = varint();
      const int field = static_cast<int>(key >> 3);
      switch (key & 7) {
        case 0:
          numbers[field].push_back(varint());
          break;
        case 1:
          numbers[field].push_back(raw<uint64_t>(bytes));
          bytes.remove_prefix(8);
          break;
        case 5:
          numbers[field].push_back(raw<uint32_t>(bytes));
          bytes.remove_prefix(4);
          break;
        case 2: {
          const uint64_t size = varint();
          texts[field].emplace_back(bytes.substr(0, size));
          EXPECT_LE(size, bytes.size());
          bytes.remove_prefix(size);
          break;
        }
        default:
          throw std::runtime_error("unknown wire type");
      }
    }
  }
  double real(int field) const { return std::bit_cast<double>(numbers.at(field).at(0)); }
  Message inner(int field) const { return Message(texts.at(field).at(0)); }
};

std::vector<double> reals(std::string_view packed) {
  std::vector<double> values;
  for (; !packed.empty(); packed.remove_prefix(8)) values.push_back(raw<double>(packed));
  return values;
}

std::vector<Message> read_events(const std::filesystem::path& path) {
  const std::string file = read_bytes(path);
  std::string_view rest = file;
  const auto masked = [](std::string_view bytes) {
    const uint32_t crc = slow_crc32c(bytes);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
  };
  std::vector<Message> events;
  while (!rest.empty()) {
    const auto length = raw<uint64_t>(rest);
    EXPECT_EQ(raw<uint32_t>(rest.substr(8)), masked(rest.substr(0, 8)));
    const std::string_view data = rest.substr(12, length);
    EXPECT_EQ(data.size(), length);
    EXPECT_EQ(raw<uint32_t>(rest.substr(12 + length)), masked(data));
    events.emplace_back(data);
    rest.remove_prefix(16 + length);
  }
  return events;
}

TEST(EventWriter, Crc32cIsCastagnolis) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
}

TEST(EventWriter, WritesWhatAReaderOfTheFormatFinds) {
  const TemporaryFolder folder;
  std::filesystem::path path;
  {
    EventWriter writer(folder.path());
    path = writer.path();
    EXPECT_THAT(path.filename().string(), ::testing::StartsWith("events.out.tfevents."));
    writer.scalar("train/loss", 2.5, 7);
    writer.scalar("train/loss", std::nan(""), int64_t{1} << 40);
    writer.text("samples", "some *text*\n\xC3\xA9", 9);
  }
  const std::vector<Message> events = read_events(path);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].texts.at(3).at(0), "brain.Event:2");
  EXPECT_FALSE(events[0].texts.contains(5));
  for (const Message& event : events) EXPECT_GT(event.real(1), 1.6e9);  // seconds since 1970
  EXPECT_EQ(events[1].numbers.at(2).at(0), 7u);
  const Message loss = events[1].inner(5).inner(1);
  EXPECT_EQ(loss.texts.at(1).at(0), "train/loss");
  EXPECT_EQ(std::bit_cast<float>(static_cast<uint32_t>(loss.numbers.at(2).at(0))), 2.5f);
  EXPECT_EQ(events[2].numbers.at(2).at(0), uint64_t{1} << 40);
  const Message text = events[3].inner(5).inner(1);
  EXPECT_EQ(text.texts.at(1).at(0), "samples");
  EXPECT_EQ(text.inner(9).inner(1).texts.at(1).at(0), "text");  // the plugin
  const Message tensor = text.inner(8);
  EXPECT_EQ(tensor.numbers.at(1).at(0), 7u);  // DT_STRING
  EXPECT_EQ(tensor.inner(2).inner(2).numbers.at(1).at(0), 1u);
  EXPECT_EQ(tensor.texts.at(8).at(0), "some *text*\n\xC3\xA9");
}

TEST(EventWriter, HistogramsCountEveryFiniteValue) {
  const TemporaryFolder folder;
  std::filesystem::path path;
  const std::vector<float> values = {-3.0f, -0.5f, 0.0f,  0.0f, 1e-20f,
                                     0.25f, 7.0f,  3e38f, NAN,  INFINITY};
  {
    EventWriter writer(folder.path());
    path = writer.path();
    writer.histogram("w", values, 3);
    writer.histogram("empty", {}, 3);
  }
  const std::vector<Message> events = read_events(path);
  const Message histogram = events[1].inner(5).inner(1).inner(5);
  EXPECT_EQ(histogram.real(1), -3.0);
  EXPECT_EQ(histogram.real(2), static_cast<double>(3e38f));
  EXPECT_EQ(histogram.real(3), 8.0);
  const std::vector<double> limits = reals(histogram.texts.at(6).at(0));
  const std::vector<double> counts = reals(histogram.texts.at(7).at(0));
  ASSERT_EQ(limits.size(), counts.size());
  EXPECT_TRUE(std::is_sorted(limits.begin(), limits.end()));
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), 0.0), 8.0);
  EXPECT_GT(counts.front(), 0.0);
  EXPECT_GT(counts.back(), 0.0);
  for (const float value : values) {
    if (!std::isfinite(value)) continue;
    const auto bucket = std::lower_bound(limits.begin(), limits.end(), static_cast<double>(value));
    ASSERT_NE(bucket, limits.end());
    EXPECT_GT(counts[static_cast<size_t>(bucket - limits.begin())], 0.0) << value;
  }
  EXPECT_EQ(events[2].inner(5).inner(1).inner(5).real(3), 0.0);
}

TEST(EventWriter, AResumedRunStartsAtItsStep) {
  const TemporaryFolder folder;
  const EventWriter first(folder.path());
  const EventWriter second(folder.path(), 500);
  EXPECT_NE(first.path(), second.path());
  const std::vector<Message> events = read_events(second.path());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].numbers.at(2).at(0), 500u);
  EXPECT_EQ(events[1].inner(7).numbers.at(1).at(0), 1u);  // SessionLog START
}

TEST(EventWriter, FailuresNameTheFile) {
  const TemporaryFolder folder;
  EXPECT_THROW(EventWriter(folder / "none"), IoError);
  EventWriter writer(folder.path());
  {
    const FileSizeLimit full(100);
    EXPECT_THAT(error_of<IoError>([&] { writer.text("t", std::string(200, 'x'), 1); }),
                HasSubstr(writer.path().string()));
  }
  writer.scalar("x", 1, 1);
  EXPECT_EQ(read_events(writer.path()).size(), 2u);  // no piece of the failed record is left
}

}  // namespace
}  // namespace weft::io
