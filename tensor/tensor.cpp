#include "weft/tensor/tensor.h"

#include <utility>

#include "weft/tensor/check.h"

namespace weft {

Tensor::Tensor(std::shared_ptr<Storage> storage, Layout layout, DType dtype)
    : storage_(std::move(storage)), layout_(std::move(layout)), dtype_(dtype) {}

int64_t Tensor::size(int axis) const {
  return layout_.shape[normalize_axis("size", axis, rank())];
}

int64_t Tensor::stride(int axis) const {
  return layout_.strides[normalize_axis("stride", axis, rank())];
}

Device Tensor::device() const {
  WEFT_CHECK(defined(), ShapeError, "device: the tensor is undefined");
  return storage_->device();
}

bool Tensor::is_contiguous() const {
  int64_t step = 1;
  for (int axis = rank() - 1; axis >= 0; --axis) {
    const int64_t size = layout_.shape[axis];
    if (size == 0) return true;
    if (size != 1 && layout_.strides[axis] != step) return false;
    step *= size;
  }
  return true;
}

void* Tensor::raw_data() const {
  WEFT_CHECK(defined(), ShapeError, "data: the tensor is undefined");
  return static_cast<char*>(storage_->data()) +
         layout_.offset * static_cast<int64_t>(size_of(dtype_));
}

void* Tensor::checked_data(DType wanted) const {
  WEFT_CHECK(dtype_ == wanted, DTypeError, "data: asked for {} of a tensor {}", wanted, *this);
  return raw_data();
}

Tensor Tensor::slice(int axis, int64_t start, int64_t stop, int64_t step) const {
  axis = normalize_axis("slice", axis, rank());
  WEFT_CHECK(step >= 1, ConfigError, "slice: step must be at least 1, got {}", step);
  const int64_t size = layout_.shape[axis];
  const auto clip = [size](int64_t bound) {
    return std::clamp<int64_t>(bound < 0 ? bound + size : bound, 0, size);
  };
  start = clip(start);
  stop = std::max(clip(stop), start);
  Layout layout = layout_;
  layout.offset += start * layout.strides[axis];
  layout.shape[axis] = (stop - start + step - 1) / step;
  layout.strides[axis] *= step;
  return {storage_, layout, dtype_};
}

Tensor Tensor::select(int axis, int64_t index) const {
  axis = normalize_axis("select", axis, rank());
  const int64_t size = layout_.shape[axis];
  WEFT_CHECK(index >= -size && index < size, IndexError,
             "select: index {} out of range for axis {} of {}", index, axis, *this);
  Layout layout = layout_;
  layout.offset += (index < 0 ? index + size : index) * layout.strides[axis];
  layout.shape.erase(axis);
  layout.strides.erase(axis);
  return {storage_, layout, dtype_};
}

Tensor Tensor::transpose(int axis_a, int axis_b) const {
  axis_a = normalize_axis("transpose", axis_a, rank());
  axis_b = normalize_axis("transpose", axis_b, rank());
  Layout layout = layout_;
  std::swap(layout.shape[axis_a], layout.shape[axis_b]);
  std::swap(layout.strides[axis_a], layout.strides[axis_b]);
  return {storage_, layout, dtype_};
}

Tensor Tensor::permute(std::initializer_list<int> axes) const {
  return permute(std::span<const int>(axes.begin(), axes.size()));
}

Tensor Tensor::permute(std::span<const int> axes) const {
  WEFT_CHECK(static_cast<int>(axes.size()) == rank(), ShapeError, "permute: {} axes given for {}",
             axes.size(), *this);
  Layout layout{{}, {}, layout_.offset};
  unsigned seen = 0;
  for (int axis : axes) {
    axis = normalize_axis("permute", axis, rank());
    WEFT_CHECK((seen & (1u << axis)) == 0, ShapeError, "permute: axis {} given twice for {}", axis,
               *this);
    seen |= 1u << axis;
    layout.shape.push_back(layout_.shape[axis]);
    layout.strides.push_back(layout_.strides[axis]);
  }
  return {storage_, layout, dtype_};
}

namespace {

/// Replaces the one -1 in `wanted` by what the element count of `tensor` leaves for it.
Shape resolve_shape(const char* op, const Shape& wanted, const Tensor& tensor) {
  Shape shape = wanted;
  int open_axis = -1;
  int64_t known = 1;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    WEFT_CHECK(shape[axis] >= -1, ShapeError, "{}: size {} in {} is negative", op, shape[axis],
               wanted);
    if (shape[axis] == -1) {
      WEFT_CHECK(open_axis < 0, ShapeError, "{}: more than one -1 in {}", op, wanted);
      open_axis = axis;
    } else {
      known *= shape[axis];
    }
  }
  if (open_axis >= 0 && known > 0 && tensor.numel() % known == 0)
    shape[open_axis] = tensor.numel() / known;
  WEFT_CHECK(shape.numel() == tensor.numel() && (open_axis < 0 || shape[open_axis] >= 0),
             ShapeError, "{}: {} does not have the elements of {}", op, wanted, tensor);
  return shape;
}

/// Strides that give `layout` the shape `shape` without a copy; false when there are none. Both
/// have the same number of elements. Walks groups of axes that hold the same elements on both
/// sides; each group of the old layout must be dense in itself.
bool strides_for_view(const Layout& layout, const Shape& shape, Strides& strides) {
  strides = contiguous_strides(shape);
  if (shape.numel() == 0) return true;
  int old_axis = layout.shape.rank() - 1;
  int new_axis = shape.rank() - 1;
  while (old_axis >= 0) {
    if (layout.shape[old_axis] == 1) {
      --old_axis;
      continue;
    }
    // Grow a dense run of old axes.
    int64_t base = layout.strides[old_axis];
    int64_t run = layout.shape[old_axis];
    while (old_axis > 0 &&
           (layout.shape[old_axis - 1] == 1 || layout.strides[old_axis - 1] == base * run)) {
      --old_axis;
      run *= layout.shape[old_axis];
    }
    --old_axis;
    // Spread the run over new axes.
    int64_t placed = 1;
    while (new_axis >= 0 && placed < run) {
      strides[new_axis] = base * placed;
      placed *= shape[new_axis];
      --new_axis;
    }
    if (placed != run) return false;
  }
  return true;
}

}  // namespace

Tensor Tensor::view(const Shape& wanted) const {
  const Shape shape = resolve_shape("view", wanted, *this);
  Strides strides;
  WEFT_CHECK(strides_for_view(layout_, shape, strides), ShapeError,
             "view: {} with strides {} cannot be seen as {} without a copy; use reshape", *this,
             layout_.strides, wanted);
  return {storage_, Layout{shape, strides, layout_.offset}, dtype_};
}

Tensor Tensor::reshape(const Shape& wanted) const {
  const Shape shape = resolve_shape("reshape", wanted, *this);
  Strides strides;
  if (strides_for_view(layout_, shape, strides))
    return {storage_, Layout{shape, strides, layout_.offset}, dtype_};
  return clone().view(shape);
}

Tensor Tensor::expand(const Shape& wanted) const {
  WEFT_CHECK(wanted.rank() >= rank(), ShapeError, "expand: {} has more axes than {}", *this,
             wanted);
  Layout layout{wanted, wanted, layout_.offset};
  const int added = wanted.rank() - rank();
  for (int axis = 0; axis < wanted.rank(); ++axis) {
    const int64_t old_size = axis < added ? 1 : layout_.shape[axis - added];
    int64_t& size = layout.shape[axis];
    if (size == -1 && axis >= added) size = old_size;
    WEFT_CHECK(size >= 0 && (size == old_size || old_size == 1), ShapeError,
               "expand: {} cannot become {}", *this, wanted);
    layout.strides[axis] = size == old_size && axis >= added ? layout_.strides[axis - added] : 0;
  }
  return {storage_, layout, dtype_};
}

Tensor Tensor::squeeze(int axis) const {
  axis = normalize_axis("squeeze", axis, rank());
  WEFT_CHECK(layout_.shape[axis] == 1, ShapeError, "squeeze: axis {} of {} does not have size 1",
             axis, *this);
  return select(axis, 0);
}

Tensor Tensor::squeeze() const {
  Layout layout{{}, {}, layout_.offset};
  for (int axis = 0; axis < rank(); ++axis) {
    if (layout_.shape[axis] == 1) continue;
    layout.shape.push_back(layout_.shape[axis]);
    layout.strides.push_back(layout_.strides[axis]);
  }
  return {storage_, layout, dtype_};
}

Tensor Tensor::unsqueeze(int axis) const {
  axis = normalize_axis("unsqueeze", axis, rank() + 1);
  Layout layout = layout_;
  const int64_t stride = axis < rank() ? layout_.strides[axis] * layout_.shape[axis] : 1;
  layout.shape.insert(axis, 1);
  layout.strides.insert(axis, stride);
  return {storage_, layout, dtype_};
}

Tensor Tensor::flatten(int first, int last) const {
  if (rank() == 0) return view({1});
  first = normalize_axis("flatten", first, rank());
  last = normalize_axis("flatten", last, rank());
  WEFT_CHECK(first <= last, ShapeError, "flatten: first axis {} lies after last axis {} of {}",
             first, last, *this);
  Shape shape;
  for (int axis = 0; axis < first; ++axis) shape.push_back(layout_.shape[axis]);
  int64_t merged = 1;
  for (int axis = first; axis <= last; ++axis) merged *= layout_.shape[axis];
  shape.push_back(merged);
  for (int axis = last + 1; axis < rank(); ++axis) shape.push_back(layout_.shape[axis]);
  return reshape(shape);
}

std::vector<Tensor> Tensor::split(int64_t size, int axis) const {
  WEFT_CHECK(size >= 1, ConfigError, "split: size must be at least 1, got {}", size);
  axis = normalize_axis("split", axis, rank());
  std::vector<Tensor> pieces;
  for (int64_t start = 0; start < layout_.shape[axis]; start += size)
    pieces.push_back(slice(axis, start, start + size));
  return pieces;
}

std::vector<Tensor> Tensor::split(std::span<const int64_t> sizes, int axis) const {
  axis = normalize_axis("split", axis, rank());
  std::vector<Tensor> pieces;
  int64_t start = 0;
  for (int64_t size : sizes) {
    WEFT_CHECK(size >= 0, ShapeError, "split: negative size {} for {}", size, *this);
    pieces.push_back(slice(axis, start, start + size));
    start += size;
  }
  WEFT_CHECK(start == layout_.shape[axis], ShapeError,
             "split: sizes add up to {}, axis {} of {} has {}", start, axis, *this,
             layout_.shape[axis]);
  return pieces;
}

Tensor Tensor::contiguous() const {
  return is_contiguous() ? *this : clone();
}

Tensor Tensor::clone() const {
  Tensor copy = empty_like(*this);
  copy.copy_(*this);
  return copy;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor converted = empty(shape(), dtype, device());
  converted.copy_(*this);
  return converted;
}

Tensor Tensor::to(Device wanted) const {
  if (wanted == device()) return *this;
  Tensor moved = empty(shape(), dtype_, wanted);
  moved.copy_(*this);
  return moved;
}

Tensor& Tensor::zero_() {
  return fill_(0.0);
}

double Tensor::item_as_double() const {
  WEFT_CHECK(numel() == 1, ShapeError, "item: {} does not have exactly one element", *this);
  double value = 0;
  Tensor(std::make_shared<Storage>(&value, sizeof value, kCpu, nullptr), Layout{{}, {}, 0},
         DType::f64)
      .copy_(reshape({}));
  return value;
}

int64_t Tensor::item_as_int() const {
  WEFT_CHECK(numel() == 1, ShapeError, "item: {} does not have exactly one element", *this);
  int64_t value = 0;
  Tensor(std::make_shared<Storage>(&value, sizeof value, kCpu, nullptr), Layout{{}, {}, 0},
         DType::i64)
      .copy_(reshape({}));
  return value;
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  if constexpr (std::is_same_v<T, bool>) {
    const std::vector<uint8_t> bytes = to(DType::boolean).to_vector<uint8_t>();
    return {bytes.begin(), bytes.end()};
  } else {
    const Tensor dense = to(kCpu).to(dtype_of<T>).contiguous();
    const T* first = dense.data<T>();
    return {first, first + dense.numel()};
  }
}

template std::vector<double> Tensor::to_vector() const;
template std::vector<float> Tensor::to_vector() const;
template std::vector<bf16> Tensor::to_vector() const;
template std::vector<f16> Tensor::to_vector() const;
template std::vector<int64_t> Tensor::to_vector() const;
template std::vector<int32_t> Tensor::to_vector() const;
template std::vector<uint8_t> Tensor::to_vector() const;
template std::vector<bool> Tensor::to_vector() const;

std::string describe(const Tensor& tensor) {
  if (!tensor.defined()) return "undefined";
  return fmt::format("{} {} {}", tensor.shape(), tensor.dtype(), tensor.device());
}

}  // namespace weft
