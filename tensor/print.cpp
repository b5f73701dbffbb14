#include <algorithm>
#include <cmath>
#include <ostream>

#include "weft/tensor/check.h"

namespace weft {
namespace {

constexpr int64_t kEdgeItems = 3;  // shown at each end of a shortened axis
constexpr int64_t kLongestAxis = 2 * kEdgeItems + 2;

std::string format_element(const Tensor& element) {
  if (element.dtype() == DType::boolean) return element.item<bool>() ? "true" : "false";
  if (!is_floating(element.dtype())) return std::to_string(element.item<int64_t>());
  const double value = element.item<double>();
  return std::isnan(value) ? "nan" : fmt::format("{:.4g}", value);
}

/// Calls visit(index) for the entries of an axis that are shown, and gap() where some are left out.
template <class Visit, class Gap>
void for_each_shown(int64_t size, Visit&& visit, Gap&& gap) {
  for (int64_t i = 0; i < size; ++i) {
    if (size > kLongestAxis && i == kEdgeItems) {
      gap();
      i = size - kEdgeItems;
    }
    visit(i);
  }
}

size_t widest_element(const Tensor& tensor) {
  if (tensor.rank() == 0) return format_element(tensor).size();
  size_t width = 0;
  for_each_shown(
      tensor.size(0),
      [&](int64_t i) { width = std::max(width, widest_element(tensor.select(0, i))); }, [] {});
  return width;
}

void print(std::ostream& stream, const Tensor& tensor, size_t width, size_t indent) {
  if (tensor.rank() == 0) {
    stream << fmt::format("{:>{}}", format_element(tensor), width);
    return;
  }
  const bool innermost = tensor.rank() == 1;
  // Matrices within a deeper nest stand apart by an empty line.
  const std::string separator =
      innermost ? ", " : fmt::format(",{:\n>{}}{:>{}}", "", tensor.rank() - 1, "", indent + 1);
  bool first = true;
  const auto separate = [&] {
    if (!first) stream << separator;
    first = false;
  };
  stream << '[';
  for_each_shown(
      tensor.size(0),
      [&](int64_t i) {
        separate();
        print(stream, tensor.select(0, i), width, indent + 1);
      },
      [&] {
        separate();
        stream << "...";
      });
  stream << ']';
}

}  // namespace

std::ostream& operator<<(std::ostream& stream, const Tensor& tensor) {
  stream << describe(tensor);
  if (!tensor.defined()) return stream;
  stream << (tensor.rank() > 1 ? "\n" : " ");
  const Tensor local = tensor.to(kCpu);
  print(stream, local, local.numel() > 0 ? widest_element(local) : 0, 0);
  return stream;
}

}  // namespace weft
