#pragma once

#include <array>
#include <initializer_list>
#include <string>
#include <vector>

#include "weft/tensor/device.h"
#include "weft/tensor/dtype.h"

namespace weft {

template <class Launcher>
struct Kernel;

/// Every element type, in the order in which tables list them.
inline constexpr std::array kEveryDType{DType::f64, DType::f32, DType::bf16, DType::f16,
                                        DType::i64, DType::i32, DType::u8,   DType::boolean};

/// A set of element types.
class DTypeSet {
 public:
  constexpr DTypeSet() = default;
  constexpr DTypeSet(std::initializer_list<DType> types) {
    for (const DType type : types) bits_ |= bit(type);
  }

  constexpr bool contains(DType type) const { return (bits_ & bit(type)) != 0; }
  friend constexpr DTypeSet operator|(DTypeSet a, DTypeSet b) {
    a.bits_ |= b.bits_;
    return a;
  }

 private:
  static constexpr unsigned bit(DType type) { return 1u << static_cast<unsigned>(type); }

  unsigned bits_ = 0;
};

inline constexpr DTypeSet kFloatingTypes{DType::f64, DType::f32, DType::bf16, DType::f16};
inline constexpr DTypeSet kIntegerTypes{DType::i64, DType::i32, DType::u8};
inline constexpr DTypeSet kNumericTypes = kFloatingTypes | kIntegerTypes;
inline constexpr DTypeSet kAllTypes = kNumericTypes | DTypeSet{DType::boolean};

/// What one op takes.
struct OpInfo {
  std::string name;    ///< as callers write it
  std::string kernel;  ///< the name of its Kernel<...>
  DTypeSet dtypes;     ///< of its main operand; indices and statistics have types of their own
  bool on_cpu = false;
  bool on_cuda = false;

  /// The types that it takes on a device: none where it has no kernel.
  DTypeSet dtypes_on(DeviceType device) const {
    return (device == DeviceType::cpu ? on_cpu : on_cuda) ? dtypes : DTypeSet();
  }
};

/// The ops that stand on kernels, each listed beside its Kernel<...> constant. Views, and functions
/// composed of other ops, work wherever their parts do and have no entry.
class OpTable {
 public:
  /// Lists the ops that run on `kernel`; one of the kernel's own name when none are given.
  template <class Launcher>
  void add(const Kernel<Launcher>& kernel, DTypeSet dtypes,
           std::initializer_list<const char*> names = {}) {
    const auto list = [&](const char* name) {
      ops_.push_back({name, kernel.op, dtypes, kernel.cpu != nullptr, kernel.cuda != nullptr});
    };
    if (names.size() == 0) list(kernel.op);
    for (const char* name : names) list(name);
  }

  const std::vector<OpInfo>& ops() const { return ops_; }

 private:
  std::vector<OpInfo> ops_;
};

/// The ops of this library.
const OpTable& op_table();

}  // namespace weft
