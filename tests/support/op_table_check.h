#pragma once

// Holds an op table against the library: what it says of types, and that no kernel is missing.
#include <cctype>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/op_table.h"
#include "weft/tensor/stream.h"

namespace weft::test {

/// Calls an op with operands of a type.
using OpCallers = std::map<std::string, std::function<void(DType)>>;

/// Calls every op of the table with every type, by callers whose operands lie on `device`: it must
/// succeed where the table says so and throw DTypeError elsewhere. Every op must have a caller, and
/// every caller an op.
inline void expect_truth(const OpTable& table, const OpCallers& callers, Device device = kCpu) {
  std::set<std::string> names;
  for (const OpInfo& op : table.ops()) {
    EXPECT_TRUE(names.insert(op.name).second) << op.name << " is listed twice";
    const auto caller = callers.find(op.name);
    if (caller == callers.end()) {
      ADD_FAILURE() << "nothing here calls " << op.name;
      continue;
    }
    for (const DType dtype : kEveryDType) {
      SCOPED_TRACE(op.name + " of " + std::string(to_string(dtype)));
      if (op.dtypes_on(device.type).contains(dtype)) {
        EXPECT_NO_THROW({
          caller->second(dtype);
          current_stream(device).synchronize();
        });
      } else {
        EXPECT_THROW(caller->second(dtype), DTypeError);
      }
    }
  }
  for (const auto& [name, caller] : callers) {
    EXPECT_TRUE(names.contains(name)) << name << " is not in the table";
  }
}

/// Every op must have kernels for the CPU and, where the CUDA backend is built, for GPUs; those of
/// `cpu_alone` must not, so that the list stays true.
inline void expect_both_devices(const OpTable& table, const std::set<std::string>& cpu_alone = {}) {
#ifdef WEFT_HAVE_CUDA
  constexpr bool kHasGpus = true;
#else
  constexpr bool kHasGpus = false;
#endif
  for (const OpInfo& op : table.ops()) {
    EXPECT_TRUE(op.on_cpu) << op.name;
    EXPECT_EQ(op.on_cuda, kHasGpus && !cpu_alone.contains(op.name)) << op.name;
  }
}

/// The text at `at` of a source: a literal, or the name of a constant that the file sets to one.
inline std::string literal_after(const std::string& source, size_t at) {
  at = source.find_first_not_of(" \n", at);
  if (source[at] != '"') {
    const std::string constant = source.substr(at, source.find_first_of(" ,", at) - at);
    at = source.find('"', source.find(constant + " ="));
  }
  return source.substr(at + 1, source.find('"', at + 1) - at - 1);
}

/// Reads the sources under `folder`: every Kernel<...> constant must be handed to OpTable::add() in
/// its file, and its name must be one of the table's.
inline void expect_all_kernels(const std::filesystem::path& folder, const OpTable& table) {
  std::set<std::string> kernels;
  for (const OpInfo& op : table.ops()) kernels.insert(op.kernel);
  int found = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".cpp") continue;
    std::ifstream file(entry.path());
    const std::string source(std::istreambuf_iterator<char>(file), {});
    std::string dense = source;
    std::erase_if(dense, [](unsigned char c) { return std::isspace(c) != 0; });
    for (size_t at = 0; (at = source.find("constexpr Kernel<", at)) != std::string::npos; ++at) {
      const size_t brace = source.find('{', at);  // constexpr Kernel<...> kName{"name", ...
      ASSERT_NE(brace, std::string::npos) << entry.path();
      const size_t space = source.find_last_of(" \n", brace);
      const std::string constant = source.substr(space + 1, brace - space - 1);
      const std::string name = literal_after(source, brace + 1);
      EXPECT_NE(dense.find("table.add(" + constant + ","), std::string::npos)
          << constant << " of " << entry.path() << " is not added to the op table";
      EXPECT_TRUE(kernels.contains(name)) << name << " of " << entry.path();
      ++found;
    }
  }
  EXPECT_GT(found, 0) << folder;
}

}  // namespace weft::test
