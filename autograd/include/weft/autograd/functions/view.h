#pragma once

#include <initializer_list>
#include <span>
#include <vector>

#include "weft/autograd/variable.h"

namespace weft::autograd {

// Other looks at the elements of a variable. Arguments, results and errors are those of the members
// of weft::Tensor with these names. Views share their elements with the variable.

Variable reshape(const Variable& x, const Shape& shape);
Variable view(const Variable& x, const Shape& shape);
Variable transpose(const Variable& x, int axis_a, int axis_b);
Variable permute(const Variable& x, std::initializer_list<int> axes);
Variable permute(const Variable& x, std::span<const int> axes);

/// Backward writes into a tensor of zeros of the size of x. To take a variable apart, use split():
/// its backward puts the pieces together once.
Variable slice(const Variable& x, int axis, int64_t start, int64_t stop, int64_t step = 1);
Variable select(const Variable& x, int axis, int64_t index);

Variable expand(const Variable& x, const Shape& shape);
Variable squeeze(const Variable& x, int axis);
Variable squeeze(const Variable& x);
Variable unsqueeze(const Variable& x, int axis);
Variable flatten(const Variable& x, int first = 0, int last = -1);

/// Pieces of `size` along `axis`; the last may be smaller.
std::vector<Variable> split(const Variable& x, int64_t size, int axis);
/// Pieces of these sizes, which add up to the length of `axis`.
std::vector<Variable> split(const Variable& x, std::span<const int64_t> sizes, int axis);

/// x itself where it is dense, otherwise a dense copy.
Variable contiguous(const Variable& x);

/// x itself where nothing changes, otherwise a copy of another type. The gradient is converted
/// back; none flows through integers and bools.
Variable to(const Variable& x, DType dtype);

}  // namespace weft::autograd
