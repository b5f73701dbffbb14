#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace weft::io {

/// Writes a TensorBoard event file, events.out.tfevents.<seconds>.<host>.<pid>.<n>, into a folder.
/// Throws IoError when it cannot be written.
class EventWriter {
 public:
  /// `resume_step` above 0 tells TensorBoard to forget what earlier files say of that step and
  /// later ones.
  explicit EventWriter(const std::filesystem::path& folder, int64_t resume_step = 0);
  ~EventWriter();
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  const std::filesystem::path& path() const { return path_; }

  void scalar(std::string_view tag, double value, int64_t step);
  /// Shown as Markdown.
  void text(std::string_view tag, std::string_view text, int64_t step);
  /// Distribution of the values; those that are not finite are left out.
  void histogram(std::string_view tag, std::span<const float> values, int64_t step);

 private:
  void event(int64_t step, std::string_view payload);

  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// CRC-32C (Castagnoli), as in event files.
uint32_t crc32c(std::string_view bytes);

}  // namespace weft::io
