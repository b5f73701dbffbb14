#pragma once

#include <string>
#include <string_view>

#include "weft/io/checkpoint.h"
#include "weft/io/hdf5.h"

namespace weft::io {

inline constexpr std::string_view kCheckpointFormat = "weft-checkpoint";
inline constexpr int64_t kCheckpointVersion = 1;
inline constexpr const char* kTablePath = "/table";

/// Whether the name has the form that CheckpointWriter documents.
bool is_entry_name(std::string_view name);

/// "/model/norm/weight" for "model.norm.weight".
std::string entry_path(std::string_view name);

/// How the elements of an entry are stored.
ElementType stored_element(const CheckpointEntry& entry);

/// The attribute `dtype`: "F32", "BF16", ..., "TEXT", "INT", "REAL".
std::string_view dtype_attribute(const CheckpointEntry& entry);

/// One line of the table: name, dtype, shape, hash.
std::string table_line(const CheckpointEntry& entry);

/// Inverse of table_line() over all lines. `origin` names the file in the IoError.
std::vector<CheckpointEntry> parse_table(std::string_view table, const std::string& origin);

}  // namespace weft::io
