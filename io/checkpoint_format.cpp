#include "checkpoint_format.h"

#include <array>
#include <cctype>
#include <charconv>
#include <limits>

#include "weft/tensor/check.h"

#include "hash.h"

namespace weft::io {
namespace {

using Kind = CheckpointEntry::Kind;

struct DTypeName {
  std::string_view name;
  Kind kind;
  DType dtype;
  ElementType stored;
};

constexpr std::array kNames = {
    DTypeName{"F64", Kind::tensor, DType::f64, ElementType::f64},
    DTypeName{"F32", Kind::tensor, DType::f32, ElementType::f32},
    // HDF5 knows bfloat16 only since 2.0.
    DTypeName{"BF16", Kind::tensor, DType::bf16, ElementType::u16},
    DTypeName{"F16", Kind::tensor, DType::f16, ElementType::f16},
    DTypeName{"I64", Kind::tensor, DType::i64, ElementType::i64},
    DTypeName{"I32", Kind::tensor, DType::i32, ElementType::i32},
    DTypeName{"U8", Kind::tensor, DType::u8, ElementType::u8},
    DTypeName{"BOOL", Kind::tensor, DType::boolean, ElementType::u8},
    DTypeName{"TEXT", Kind::text, DType::u8, ElementType::u8},
    DTypeName{"INT", Kind::integer, DType::i64, ElementType::i64},
    DTypeName{"REAL", Kind::real, DType::f64, ElementType::f64},
};

const DTypeName& name_of(const CheckpointEntry& entry) {
  for (const DTypeName& known : kNames) {
    if (known.kind == entry.kind && (known.kind != Kind::tensor || known.dtype == entry.dtype))
      return known;
  }
  throw_error<ConfigError>("checkpoint: '{}' has a type without a stored form", entry.name);
}

/// Takes the text up to `end` off the front; false where there is none.
bool take_until(std::string_view& text, char end, std::string_view& field) {
  const size_t place = text.find(end);
  if (place == std::string_view::npos) return false;
  field = text.substr(0, place);
  text.remove_prefix(place + 1);
  return true;
}

template <class T>
bool parse_number(std::string_view text, T& value, int base) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && end == text.data() + text.size();
}

/// "2,3" or "" after the opening bracket.
bool parse_shape(std::string_view text, Shape& shape) {
  int64_t numel = 1;
  while (!text.empty()) {
    const size_t end = std::min(text.find(','), text.size());
    int64_t size = 0;
    if (!parse_number(text.substr(0, end), size, 10) || size < 0 || shape.rank() == kMaxRank ||
        __builtin_mul_overflow(numel, size, &numel))
      return false;
    shape.push_back(size);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return true;
}

bool parse_line(std::string_view line, CheckpointEntry& entry) {
  std::string_view name, dtype, shape;
  if (!take_until(line, ' ', name) || !take_until(line, ' ', dtype) ||
      !take_until(line, ' ', shape) || line.size() != 16 || !parse_number(line, entry.hash, 16)) {
    return false;
  }
  if (shape.size() < 2 || shape.front() != '[' || shape.back() != ']' ||
      !parse_shape(shape.substr(1, shape.size() - 2), entry.shape)) {
    return false;
  }
  entry.name = name;
  for (const DTypeName& known : kNames) {
    if (known.name != dtype) continue;
    entry.kind = known.kind;
    entry.dtype = known.dtype;
    const bool fits_kind =
        known.kind == Kind::tensor || entry.shape.rank() == (known.kind == Kind::text ? 1 : 0);
    return fits_kind && is_entry_name(entry.name) &&
           !__builtin_mul_overflow(entry.shape.numel(), static_cast<int64_t>(size_of(known.stored)),
                                   &entry.bytes);
  }
  return false;
}

}  // namespace

bool is_entry_name(std::string_view name) {
  constexpr size_t kLongest = 1000;
  const auto is_allowed = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.';
  };
  return !name.empty() && name.size() <= kLongest && name.front() != '.' && name.back() != '.' &&
         name.find("..") == std::string_view::npos &&
         std::all_of(name.begin(), name.end(), is_allowed) && entry_path(name) != kTablePath;
}

std::string entry_path(std::string_view name) {
  std::string path = "/";
  for (const char c : name) path += c == '.' ? '/' : c;
  return path;
}

ElementType stored_element(const CheckpointEntry& entry) {
  return name_of(entry).stored;
}

std::string_view dtype_attribute(const CheckpointEntry& entry) {
  return name_of(entry).name;
}

std::string table_line(const CheckpointEntry& entry) {
  std::string sizes;
  for (const int64_t size : entry.shape)
    sizes += fmt::format("{}{}", sizes.empty() ? "" : ",", size);
  return fmt::format("{} {} [{}] {}\n", entry.name, dtype_attribute(entry), sizes,
                     to_hex(entry.hash));
}

std::vector<CheckpointEntry> parse_table(std::string_view table, const std::string& origin) {
  std::vector<CheckpointEntry> entries;
  std::string_view line;
  while (take_until(table, '\n', line)) {
    CheckpointEntry entry;
    WEFT_CHECK(parse_line(line, entry) && table_line(entry) == std::string(line) + "\n", IoError,
               "cannot read '{}': line {} of its table is malformed", origin, entries.size() + 1);
    entries.push_back(std::move(entry));
  }
  WEFT_CHECK(table.empty(), IoError, "cannot read '{}': its table ends in the middle of a line",
             origin);
  return entries;
}

}  // namespace weft::io
