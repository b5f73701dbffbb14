#pragma once

#include "weft/io/hdf5.h"

#include "hdf5_handles.h"

namespace weft::io {

/// The little-endian type that stands for `type` in files (and in memory: see seal.cpp).
H5Handle stored_type(ElementType type);

/// What a type of a file is, whatever its byte order.
ElementType classify(hid_t type);

/// UTF-8 text of this length, at least 1.
H5Handle text_type(size_t bytes);

}  // namespace weft::io
