#include "weft/io/tensorboard.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "weft/tensor/check.h"

#include "file_descriptor.h"

namespace weft::io {
namespace {

/// Just enough of the protocol buffer wire format.
class Message {
 public:
  Message& integer(int field, uint64_t value) {
    key(field, 0);
    varint(value);
    return *this;
  }
  Message& real(int field, double value) {
    key(field, 1);
    raw(std::bit_cast<uint64_t>(value));
    return *this;
  }
  Message& single(int field, float value) {
    key(field, 5);
    raw(std::bit_cast<uint32_t>(value));
    return *this;
  }
  Message& bytes(int field, std::string_view value) {
    key(field, 2);
    varint(value.size());
    text_ += value;
    return *this;
  }
  Message& reals(int field, std::span<const double> values) {
    key(field, 2);
    varint(values.size() * sizeof(double));
    for (const double value : values) raw(std::bit_cast<uint64_t>(value));
    return *this;
  }
  Message& message(int field, const Message& inner) { return bytes(field, inner.text_); }
  const std::string& text() const { return text_; }

 private:
  void key(int field, int wire_type) { varint(static_cast<uint64_t>(field << 3 | wire_type)); }
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_.push_back(static_cast<char>(value | 0x80));
    text_.push_back(static_cast<char>(value));
  }
  template <class T>
  void raw(T value) {
    for (size_t i = 0; i < sizeof value; ++i) text_.push_back(static_cast<char>(value >> 8 * i));
  }

  std::string text_;
};

template <class T>
void append_raw(std::string& text, T value) {
  for (size_t i = 0; i < sizeof value; ++i) text.push_back(static_cast<char>(value >> 8 * i));
}

/// The remainders of single bytes for the Castagnoli polynomial, bits in reverse.
constexpr std::array<uint32_t, 256> kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < table.size(); ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78u : 0u);
    table[byte] = crc;
  }
  return table;
}();

uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return std::rotr(crc, 15) + 0xa282ead8u;
}

/// Field numbers of the messages Event, Summary and SessionLog.
constexpr int kEventFileVersion = 3;
constexpr int kEventSummary = 5;
constexpr int kEventSessionLog = 7;
constexpr int kSummaryValue = 1;
constexpr int kValueTag = 1;
constexpr int kValueSimple = 2;
constexpr int kValueHistogram = 5;
constexpr int kValueTensor = 8;
constexpr int kValueMetadata = 9;

Message summary_of(const Message& value) {
  return Message().message(kEventSummary, Message().message(kSummaryValue, value));
}

/// Upper ends of the buckets: 0 and both signs of 1e-12 x 1.1^k.
const std::vector<double>& bucket_limits() {
  static const std::vector<double> limits = [] {
    std::vector<double> positive;
    for (double limit = 1e-12; limit < 1e20; limit *= 1.1) positive.push_back(limit);
    positive.push_back(std::numeric_limits<double>::max());
    std::vector<double> all;
    for (auto limit = positive.rbegin(); limit != positive.rend(); ++limit) all.push_back(-*limit);
    all.push_back(0);
    all.insert(all.end(), positive.begin(), positive.end());
    return all;
  }();
  return limits;
}

Message histogram_of(std::span<const float> values) {
  const std::vector<double>& limits = bucket_limits();
  std::vector<double> counts(limits.size(), 0);
  double least = std::numeric_limits<double>::max();
  double most = std::numeric_limits<double>::lowest();
  double number = 0, sum = 0, squares = 0;
  for (const float value : values) {
    if (!std::isfinite(value)) continue;
    const double v = value;
    least = std::min(least, v);
    most = std::max(most, v);
    ++number;
    sum += v;
    squares += v * v;
    ++counts[static_cast<size_t>(std::lower_bound(limits.begin(), limits.end(), v) -
                                 limits.begin())];
  }
  // Only the buckets from the first to the last that hold something.
  const auto holds = [](double count) { return count > 0; };
  const auto first = std::find_if(counts.begin(), counts.end(), holds) - counts.begin();
  const auto last = counts.rend() - std::find_if(counts.rbegin(), counts.rend(), holds);
  Message histogram;
  if (number == 0) return histogram.real(3, 0);
  const auto range = static_cast<size_t>(last - first);
  const auto start = static_cast<size_t>(first);
  return histogram.real(1, least)
      .real(2, most)
      .real(3, number)
      .real(4, sum)
      .real(5, squares)
      .reals(6, std::span(limits).subspan(start, range))
      .reals(7, std::span(counts).subspan(start, range));
}

std::string file_name() {
  static std::atomic<int> counter{0};
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0 || host[0] == '\0')
    host = {'h', 'o', 's', 't'};
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return fmt::format("events.out.tfevents.{}.{}.{}.{}",
                     std::chrono::duration_cast<std::chrono::seconds>(now).count(), host.data(),
                     ::getpid(), counter++);
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char byte : bytes)
    crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<uint8_t>(byte)) & 0xff];
  return ~crc;
}

EventWriter::EventWriter(const std::filesystem::path& folder, int64_t resume_step)
    : path_(folder / file_name()) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  WEFT_CHECK(descriptor_ >= 0, IoError, "cannot write '{}': {}", path_.string(), error_text(errno));
  event(0, Message().bytes(kEventFileVersion, "brain.Event:2").text());
  constexpr uint64_t kStart = 1;
  if (resume_step > 0)
    event(resume_step, Message().message(kEventSessionLog, Message().integer(1, kStart)).text());
}

EventWriter::~EventWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void EventWriter::event(int64_t step, std::string_view payload) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const double seconds = std::chrono::duration<double>(now).count();
  Message message;
  message.real(1, seconds);
  if (step != 0) message.integer(2, static_cast<uint64_t>(step));
  const std::string data = message.text() + std::string(payload);
  std::string record;
  append_raw(record, static_cast<uint64_t>(data.size()));
  append_raw(record, masked_crc(record));
  record += data;
  append_raw(record, masked_crc(data));
  if (const int error = append_fully(descriptor_, record.data(), record.size()))
    throw_error<IoError>("cannot write '{}': {}", path_.string(), error_text(error));
}

void EventWriter::scalar(std::string_view tag, double value, int64_t step) {
  event(step,
        summary_of(Message().bytes(kValueTag, tag).single(kValueSimple, static_cast<float>(value)))
            .text());
}

void EventWriter::text(std::string_view tag, std::string_view text, int64_t step) {
  constexpr uint64_t kStringType = 7;
  const Message shape = Message().message(2, Message().integer(1, 1));
  const Message tensor = Message().integer(1, kStringType).message(2, shape).bytes(8, text);
  const Message metadata = Message().message(1, Message().bytes(1, "text"));
  event(step, summary_of(Message()
                             .bytes(kValueTag, tag)
                             .message(kValueTensor, tensor)
                             .message(kValueMetadata, metadata))
                  .text());
}

void EventWriter::histogram(std::string_view tag, std::span<const float> values, int64_t step) {
  event(step,
        summary_of(Message().bytes(kValueTag, tag).message(kValueHistogram, histogram_of(values)))
            .text());
}

}  // namespace weft::io
