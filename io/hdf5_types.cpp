#include "hdf5_types.h"

#include <algorithm>
#include <vector>

namespace weft::io {
namespace {

struct ErrorTexts {
  std::vector<std::string> lines;
};

herr_t collect_error(unsigned /*depth*/, const H5E_error2_t* error, void* data) {
  auto& lines = static_cast<ErrorTexts*>(data)->lines;
  if (error->desc != nullptr && *error->desc != '\0') lines.emplace_back(error->desc);
  return 0;
}

}  // namespace

std::mutex& H5Session::mutex() {
  static std::mutex mutex;
  return mutex;
}

std::string h5_error_text() {
  ErrorTexts texts;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect_error, &texts);
  if (texts.lines.empty()) return "the HDF5 library gives no reason";
  constexpr size_t kLines = 2;  // the cause and what it kept from happening
  std::string text;
  for (size_t i = 0; i < std::min(kLines, texts.lines.size()); ++i) {
    if (i > 0) text += "; ";
    text += texts.lines[i];
  }
  return text;
}

std::string_view to_string(ElementType type) {
  switch (type) {
    case ElementType::u8:
      return "u8";
    case ElementType::i8:
      return "i8";
    case ElementType::u16:
      return "u16";
    case ElementType::i16:
      return "i16";
    case ElementType::u32:
      return "u32";
    case ElementType::i32:
      return "i32";
    case ElementType::u64:
      return "u64";
    case ElementType::i64:
      return "i64";
    case ElementType::f16:
      return "f16";
    case ElementType::f32:
      return "f32";
    case ElementType::f64:
      return "f64";
    case ElementType::other:
      break;
  }
  return "another type";
}

size_t size_of(ElementType type) {
  switch (type) {
    case ElementType::u8:
    case ElementType::i8:
      return 1;
    case ElementType::u16:
    case ElementType::i16:
    case ElementType::f16:
      return 2;
    case ElementType::u32:
    case ElementType::i32:
    case ElementType::f32:
      return 4;
    case ElementType::u64:
    case ElementType::i64:
    case ElementType::f64:
      return 8;
    case ElementType::other:
      break;
  }
  throw_error<DTypeError>("HDF5: elements of another type have no known size");
}

H5Handle stored_type(ElementType type) {
  const auto copy = [](hid_t predefined) { return H5Handle(H5Tcopy(predefined), H5Tclose); };
  switch (type) {
    case ElementType::u8:
      return copy(H5T_STD_U8LE);
    case ElementType::i8:
      return copy(H5T_STD_I8LE);
    case ElementType::u16:
      return copy(H5T_STD_U16LE);
    case ElementType::i16:
      return copy(H5T_STD_I16LE);
    case ElementType::u32:
      return copy(H5T_STD_U32LE);
    case ElementType::i32:
      return copy(H5T_STD_I32LE);
    case ElementType::u64:
      return copy(H5T_STD_U64LE);
    case ElementType::i64:
      return copy(H5T_STD_I64LE);
    case ElementType::f32:
      return copy(H5T_IEEE_F32LE);
    case ElementType::f64:
      return copy(H5T_IEEE_F64LE);
    case ElementType::f16: {
      // IEEE binary16, as h5py makes it; the library has it predefined only since 1.14.4.
      H5Handle half = copy(H5T_IEEE_F32LE);
      H5Tset_fields(half.get(), 15, 10, 5, 0, 10);
      H5Tset_size(half.get(), 2);
      H5Tset_ebias(half.get(), 15);
      return half;
    }
    case ElementType::other:
      break;
  }
  throw_error<DTypeError>("HDF5: cannot write elements of another type");
}

ElementType classify(hid_t type) {
  const size_t size = H5Tget_size(type);
  const H5T_class_t kind = H5Tget_class(type);
  if (kind == H5T_INTEGER) {
    // Plain two's complement of full width only.
    if (H5Tget_precision(type) != 8 * size || H5Tget_offset(type) != 0) return ElementType::other;
    const bool is_signed = H5Tget_sign(type) == H5T_SGN_2;
    switch (size) {
      case 1:
        return is_signed ? ElementType::i8 : ElementType::u8;
      case 2:
        return is_signed ? ElementType::i16 : ElementType::u16;
      case 4:
        return is_signed ? ElementType::i32 : ElementType::u32;
      case 8:
        return is_signed ? ElementType::i64 : ElementType::u64;
      default:
        return ElementType::other;
    }
  }
  if (kind != H5T_FLOAT) return ElementType::other;
  if (H5Tequal(type, H5T_IEEE_F32LE) > 0 || H5Tequal(type, H5T_IEEE_F32BE) > 0)
    return ElementType::f32;
  if (H5Tequal(type, H5T_IEEE_F64LE) > 0 || H5Tequal(type, H5T_IEEE_F64BE) > 0)
    return ElementType::f64;
  size_t sign = 0, exponent = 0, exponent_bits = 0, mantissa = 0, mantissa_bits = 0;
  if (size == 2 &&
      H5Tget_fields(type, &sign, &exponent, &exponent_bits, &mantissa, &mantissa_bits) >= 0 &&
      sign == 15 && exponent == 10 && exponent_bits == 5 && mantissa == 0 && mantissa_bits == 10 &&
      H5Tget_ebias(type) == 15) {
    return ElementType::f16;
  }
  return ElementType::other;
}

H5Handle text_type(size_t bytes) {
  H5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.get(), std::max<size_t>(bytes, 1));
  H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  return type;
}

}  // namespace weft::io
