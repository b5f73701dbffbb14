// Gathers move elements of a size, whatever their type. Sums avoid float atomics, so that they
// repeat to the bit: an index that is one list for whole rows goes through add_rows_cuda(), any
// other has a thread for each line along the axis, which takes the line's entries in order.
#include "cuda/index_math.h"
#include "ops/add_rows_cuda.h"
#include "ops/gather_kernels.h"
#include "ops/rows_cuda.cuh"

namespace weft {
namespace {

using namespace cuda;

constexpr int kThreads = 256;

/// Calls body.operator()<Unit>() with a stand-in for elements of this many bytes.
template <class Body>
void dispatch_size(size_t bytes, Body&& body) {
  switch (bytes) {
    case 1:
      return body.template operator()<uint8_t>();
    case 2:
      return body.template operator()<uint16_t>();
    case 4:
      return body.template operator()<uint32_t>();
    case 8:
      return body.template operator()<uint64_t>();
    default:
      return body.template operator()<uint4>();
  }
}

/// Operands of a position: the result, the index, and the first element of the line in x. Indices
/// outside give zero.
template <class Unit, class Index>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const IndexMap<3> map, uint32_t positions, Unit* __restrict__ out,
                  const Index* __restrict__ index, const Unit* __restrict__ x, int64_t step,
                  int64_t size, Fault* fault, const char* op) {
  const uint32_t position = blockIdx.x * kThreads + threadIdx.x;
  if (position >= positions) return;
  const auto offsets = map.offsets(position);
  const auto place = static_cast<int64_t>(index[offsets.of[1]]);
  Unit value = {};
  if (static_cast<uint64_t>(place) < static_cast<uint64_t>(size)) {
    value = x[offsets.of[2] + place * step];
  } else {
    report_fault(fault, FaultKind::index, op, place, size);
  }
  out[offsets.of[0]] = value;
}

/// A line: operands are the sums, the index and the source.
template <class T, class Index>
__global__ void __launch_bounds__(kThreads)
    scatter_add_lines(const IndexMap<3> map, uint32_t lines, T* __restrict__ x,
                      const Index* __restrict__ index, const T* __restrict__ source, int64_t length,
                      int64_t size, int64_t step, int64_t index_step, int64_t source_step,
                      Fault* fault, const char* op) {
  const uint32_t line = blockIdx.x * kThreads + threadIdx.x;
  if (line >= lines) return;
  const auto offsets = map.offsets(line);
  T* const to = x + offsets.of[0];
  const Index* const places = index + offsets.of[1];
  const T* const from = source + offsets.of[2];
  for (int64_t j = 0; j < length; ++j) {
    const auto place = static_cast<int64_t>(places[j * index_step]);
    if (static_cast<uint64_t>(place) < static_cast<uint64_t>(size)) {
      to[place * step] += from[j * source_step];
    } else {
      report_fault(fault, FaultKind::index, op, place, size);
    }
  }
}

template <class T>
T* at(const void* data, int64_t offset) {
  return static_cast<T*>(const_cast<void*>(data)) + offset;
}

/// Strides and offsets of a loop in units of `factor` elements, where the last axis allows it.
bool widen_loop(StridedLoop<3>& loop, int64_t factor, const void* out, const void* x,
                int64_t step) {
  const int last = loop.shape.rank() - 1;
  bool fits = loop.strides[1][last] == 0 && loop.strides[0][last] == 1 &&
              loop.strides[2][last] == 1 && loop.shape[last] % factor == 0 && step % factor == 0 &&
              is_aligned(out, 0) && is_aligned(x, 0);
  for (int axis = 0; axis < last; ++axis) {
    fits = fits && loop.strides[0][axis] % factor == 0 && loop.strides[2][axis] % factor == 0;
  }
  if (!fits) return false;
  loop.shape[last] /= factor;
  for (int axis = 0; axis < last; ++axis) {
    loop.strides[0][axis] /= factor;
    loop.strides[2][axis] /= factor;
  }
  return true;
}

}  // namespace

void gather_cuda(const Tensor& x, int axis, const Tensor& index, Tensor& out, Stream stream) {
  Strides x_strides = x.strides();
  int64_t step = x_strides[axis];
  x_strides[axis] = 0;
  StridedLoop<3> loop(out.shape(), {out.strides(), index.strides(), x_strides});
  size_t unit = size_of(x.dtype());
  // Whole rows of one index move in units of 16 bytes.
  const auto factor = static_cast<int64_t>(16 / unit);
  if (widen_loop(loop, factor, out.raw_data(), x.raw_data(), step)) {
    unit = 16;
    step /= factor;
  }
  dispatch_size(unit, [&]<class Unit>() {
    dispatch_index(index.dtype(), "gather", [&]<class Index>() {
      for_each_piece<3>(loop, kPieceLimit,
                        [&](const StridedLoop<3>& part, const auto& first, int64_t) {
                          const auto positions = static_cast<uint32_t>(part.shape.numel());
                          launch("gather", stream, {blocks_for(positions, kThreads), kThreads},
                                 gather_kernel<Unit, Index>, index_map(part, 1), positions,
                                 at<Unit>(out.raw_data(), first[0]), index.data<Index>() + first[1],
                                 static_cast<const Unit*>(at<Unit>(x.raw_data(), first[2])), step,
                                 x.shape()[axis], fault_slot(stream.device()), "gather");
                        });
    });
  });
}

void scatter_add_cuda(Tensor& x, int axis, const Tensor& index, const Tensor& source,
                      Stream stream) {
  const int64_t length = index.shape()[axis];
  const int64_t step = x.strides()[axis];
  // One list of rows: index_add() along the first axis of a dense tensor, or any sums into a
  // vector.
  bool is_list = axis == 0 && x.is_contiguous() && source.is_contiguous() && length > 1 &&
                 index.strides()[0] == 1 && x.size(0) > 0;
  for (int a = 1; a < x.rank(); ++a) {
    is_list = is_list && index.shape()[a] == x.shape()[a] &&
              (index.strides()[a] == 0 || index.shape()[a] == 1);
  }
  if (is_list) {
    const Tensor ids(index.storage(), {{length}, {1}, index.offset()}, index.dtype());
    Tensor to = x.view({x.size(0), -1});
    return add_rows_cuda("scatter_add", source.view({length, -1}), ids, to, /*overwrite=*/false,
                         stream);
  }
  Shape lines = index.shape();
  std::array<Strides, 3> strides = {x.strides(), index.strides(), source.strides()};
  lines.erase(axis);
  for (Strides& s : strides) s.erase(axis);
  const StridedLoop<3> loop(lines, strides);
  const auto run = [&]<class T, class Index>() {
    for_each_piece<3>(
        loop, kPieceLimit, [&](const StridedLoop<3>& part, const auto& first, int64_t) {
          const auto count = static_cast<uint32_t>(part.shape.numel());
          launch("scatter_add", stream, {blocks_for(count, kThreads), kThreads},
                 scatter_add_lines<T, Index>, index_map(part, 1), count, x.data<T>() + first[0],
                 index.data<Index>() + first[1], source.data<T>() + first[2], length,
                 x.shape()[axis], step, index.strides()[axis], source.strides()[axis],
                 fault_slot(stream.device()), "scatter_add");
        });
  };
  dispatch_index(index.dtype(), "scatter_add", [&]<class Index>() {
    switch (x.dtype()) {
      case DType::f64:
        return run.template operator()<double, Index>();
      case DType::f32:
        return run.template operator()<float, Index>();
      case DType::i64:
        return run.template operator()<int64_t, Index>();
      default:
        return run.template operator()<int32_t, Index>();
    }
  });
}

}  // namespace weft
