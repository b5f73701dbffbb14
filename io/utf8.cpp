#include "utf8.h"

#include <algorithm>

#include <fmt/format.h>

namespace weft::io {
namespace {

/// Bytes of the character that starts with `lead`; 0 when none does.
size_t sequence_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 0;
}

/// Whether `second` may follow `lead`: excludes overlong forms, surrogates, and beyond U+10FFFF.
bool is_second_byte(unsigned char lead, unsigned char second) {
  if ((second & 0xC0) != 0x80) return false;
  if (lead == 0xE0) return second >= 0xA0;
  if (lead == 0xED) return second <= 0x9F;
  if (lead == 0xF0) return second >= 0x90;
  if (lead == 0xF4) return second <= 0x8F;
  return true;
}

}  // namespace

CodePoint first_code_point(std::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const size_t length = sequence_length(lead);
  if (length == 1) return {lead, 1};
  if (length == 0 || length > text.size() || !is_second_byte(lead, byte(1))) return {};
  uint32_t value = lead & (0xFFu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {};
    value = value << 6 | (byte(i) & 0x3Fu);
  }
  return {value, length};
}

void append_utf8(uint32_t code_point, std::string& text) {
  const auto add = [&text](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    add(code_point);
  } else if (code_point < 0x800) {
    add(0xC0 | code_point >> 6);
    add(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    add(0xE0 | code_point >> 12);
    add(0x80 | (code_point >> 6 & 0x3F));
    add(0x80 | (code_point & 0x3F));
  } else {
    add(0xF0 | code_point >> 18);
    add(0x80 | (code_point >> 12 & 0x3F));
    add(0x80 | (code_point >> 6 & 0x3F));
    add(0x80 | (code_point & 0x3F));
  }
}

size_t complete_utf8_prefix(std::string_view text) {
  const size_t longest = std::min<size_t>(text.size(), 3);
  for (size_t back = 1; back <= longest; ++back) {
    const auto lead = static_cast<unsigned char>(text[text.size() - back]);
    if ((lead & 0xC0) == 0x80) continue;  // inside a character
    if (sequence_length(lead) <= back) break;
    if (back >= 2 &&
        !is_second_byte(lead, static_cast<unsigned char>(text[text.size() - back + 1])))
      break;
    return text.size() - back;
  }
  return text.size();
}

std::string describe_code_point(uint32_t code_point) {
  std::string text = fmt::format("U+{:04X}", code_point);
  const bool prints = code_point > 0x20 && (code_point < 0x7F || code_point > 0xA0);
  if (prints) {
    text += " '";
    append_utf8(code_point, text);
    text += "'";
  }
  return text;
}

}  // namespace weft::io
