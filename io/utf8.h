#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace weft::io {

/// One code point at the front of a text.
struct CodePoint {
  uint32_t value = 0;
  size_t bytes = 0;  ///< 0: the text does not start with valid UTF-8
};

/// Strict: refuses overlong forms, surrogates and values above U+10FFFF. `text` is not empty.
CodePoint first_code_point(std::string_view text);

void append_utf8(uint32_t code_point, std::string& text);

/// Length of `text` without a last character of which only the first bytes are there.
size_t complete_utf8_prefix(std::string_view text);

/// "U+00E9 'é'", or "U+000A" for what does not print.
std::string describe_code_point(uint32_t code_point);

}  // namespace weft::io
