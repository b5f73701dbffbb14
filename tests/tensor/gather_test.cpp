#include "weft/tensor/ops/gather.h"

#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/parallel.h"

#include "random_tensor.h"

namespace weft {
namespace {

using test::expect_near;
using test::random_tensor;
using test::rounding_error;
using test::scattered;

Tensor random_index(const Shape& shape, int64_t limit, uint64_t seed = 9) {
  return random_tensor(shape, DType::f64, seed, 0, static_cast<double>(limit)).to(DType::i64);
}

/// For each element of `index`, its place in the row-major elements of a tensor of shape `from`.
std::vector<size_t> places(const Shape& from, int axis, const Tensor& index) {
  const std::vector<int64_t> values = index.to_vector<int64_t>();
  const Strides strides = contiguous_strides(from);
  std::vector<size_t> result;
  for (int64_t element = 0; element < index.numel(); ++element) {
    int64_t rest = element;
    int64_t place = 0;
    for (int a = index.rank() - 1; a >= 0; --a) {
      const int64_t at = a == axis ? values[static_cast<size_t>(element)] : rest % index.size(a);
      rest /= index.size(a);
      place += at * strides[a];
    }
    result.push_back(static_cast<size_t>(place));
  }
  return result;
}

std::vector<double> picked(const std::vector<double>& from, const std::vector<size_t>& at) {
  std::vector<double> result;
  for (size_t place : at) result.push_back(from[place]);
  return result;
}

struct Sizes {
  Shape x;
  Shape index;
  int axis;
};

std::vector<Sizes> sizes() {
  return {{{1}, {1}, 0},
          {{15}, {63}, 0},
          {{15, 111}, {4, 111}, 0},
          {{15, 111}, {15, 7}, 1},
          {{3, 15, 4}, {3, 31, 4}, 1},
          {{5, 6, 7}, {2, 3, 9}, 2},
          {{4, 3}, {2, 0}, 1},
          {{2, 3, 4, 5}, {2, 3, 9, 2}, 2},
          {{4, 5}, {9, 2}, 0}};
}

TEST(Gather, ReadsWhatTheIndexNames) {
  for (const Sizes& s : sizes()) {
    const Tensor index = random_index(s.index, s.x[s.axis]);
    for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::u8}) {
      const Tensor x = random_tensor(s.x, DType::f64, 1, 0, 250).to(dtype);
      const std::vector<double> expected =
          picked(x.to_vector<double>(), places(s.x, s.axis, index));
      for (const Tensor& layout : {x, scattered(x)}) {
        for (const Tensor& list : {index, index.to(DType::i32), scattered(index)}) {
          const Tensor y = gather(layout, s.axis - x.rank(), list);
          EXPECT_EQ(y.shape(), s.index);
          EXPECT_EQ(y.dtype(), dtype);
          EXPECT_EQ(y.to_vector<double>(), expected);
        }
      }
    }
  }
}

TEST(Gather, ReadsExpandedTensors) {
  const Tensor x = random_tensor({1, 5}, DType::f32).expand({40, 5});
  const Tensor index = random_index({3}, 5).expand({40, 3});
  EXPECT_EQ(gather(x, 1, index).to_vector<double>(),
            picked(x.to_vector<double>(), places({40, 5}, 1, index)));
}

TEST(Gather, IndexSelectPicksEntries) {
  const Tensor index = from_vector<int64_t>({3, 0, 3, 1}, {4});
  const Tensor x = random_tensor({4, 5, 4}, DType::f32);
  for (const Tensor& layout : {x, scattered(x), x.transpose(0, 2)}) {
    for (int axis : {0, 2, -1}) {
      const Tensor y = index_select(layout, axis, index);
      for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(y.select(axis, i).to_vector<float>(),
                  layout.select(axis, index.to_vector<int64_t>()[static_cast<size_t>(i)])
                      .to_vector<float>());
      }
    }
  }
  EXPECT_EQ(index_select(x, 1, empty({0}, DType::i64)).shape(), (Shape{4, 0, 4}));
}

TEST(Gather, ScatterAddAddsRepeatedIndices) {
  for (const Sizes& s : sizes()) {
    const Tensor index = random_index(s.index, s.x[s.axis]);
    const std::vector<size_t> at = places(s.x, s.axis, index);
    for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32}) {
      const Tensor x = random_tensor(s.x, DType::f64, 1, -9, 9).to(dtype);
      const Tensor source = random_tensor(s.index, DType::f64, 2, -9, 9).to(dtype);
      std::vector<double> expected = x.to_vector<double>();
      const std::vector<double> added = source.to_vector<double>();
      for (size_t i = 0; i < at.size(); ++i) expected[at[i]] += added[i];
      for (const Tensor& layout : {x, scattered(x)}) {
        for (const Tensor& from : {source, scattered(source)}) {
          const Tensor y = scatter_add(layout, s.axis, scattered(index), from);
          EXPECT_EQ(y.dtype(), dtype);
          expect_near(y, expected, rounding_error(dtype), dtype == DType::f64 ? 1e-13 : 1e-4);
          EXPECT_EQ(layout.to_vector<double>(), x.to_vector<double>());
        }
      }
    }
  }
}

TEST(Gather, ScatterAddKeepsMoreBitsThanHalfTypes) {
  const Tensor y =
      scatter_add(zeros({1}, DType::bf16), 0, zeros({1000}, DType::i64), ones({1000}, DType::bf16));
  EXPECT_EQ(y.item<double>(), 1000);
}

TEST(Gather, ScatterAddDoesNotDependOnTheNumberOfThreads) {
  const Tensor x = zeros({6, 3000});
  const Tensor index = random_index({50, 3000}, 6);
  const Tensor source = random_tensor({50, 3000}, DType::f32);
  const int before = num_threads();
  set_num_threads(1);
  const auto run = [&] { return scatter_add(x, 0, index, source).to_vector<float>(); };
  const std::vector<float> one = run();
  for (int threads : {2, 5}) {
    set_num_threads(threads);
    EXPECT_EQ(run(), one);
  }
  set_num_threads(before);
}

TEST(Gather, IndexAddAddsEntries) {
  const Tensor index = from_vector<int32_t>({2, 0, 2, 2}, {4});
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (int axis : {0, 1, 2}) {
      const Tensor x = random_tensor({4, 5, 6}, dtype);
      Shape shape = x.shape();
      shape[axis] = 4;
      const Tensor source = random_tensor(shape, dtype, 8);
      Tensor expected = x.to(DType::f64).clone();
      for (int i = 0; i < 4; ++i) {
        Tensor entry = expected.select(axis, index.to_vector<int>()[static_cast<size_t>(i)]);
        const Tensor added = source.to(DType::f64).select(axis, i);
        for (int a = 0; a < entry.size(0); ++a)
          for (int b = 0; b < entry.size(1); ++b)
            entry.select(0, a).select(0, b).fill_(entry.select(0, a).select(0, b).item<double>() +
                                                  added.select(0, a).select(0, b).item<double>());
      }
      expect_near(index_add(scattered(x), axis, index, source), expected.to_vector<double>(),
                  rounding_error(dtype), 1e-6);
    }
  }
}

TEST(Gather, InPlaceFormsWriteAndSurviveSharedElements) {
  Tensor x = from_vector<float>({1, 2, 3}, {3});
  const uint64_t version = x.version();
  scatter_add_(x, 0, from_vector<int64_t>({0, 0, 1}, {3}), x);
  EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{4, 5, 3}));
  EXPECT_GT(x.version(), version);
  index_add_(x, 0, from_vector<int64_t>({2}, {1}), ones({1}));
  EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{4, 5, 4}));
  Tensor i = from_vector<int64_t>({2, 2, 2}, {3});
  scatter_add_(i, 0, i, full({3}, 1000, DType::i64));
  EXPECT_EQ(i.to_vector<int64_t>(), (std::vector<int64_t>{2, 2, 3002}));
  Tensor repeated = zeros({1}).expand({3});
  EXPECT_THROW(scatter_add_(repeated, 0, zeros({1}, DType::i64), ones({1})), ShapeError);
}

TEST(Gather, ErrorsSayWhatIsWrong) {
  const Tensor x = zeros({2, 3});
  const Tensor index = zeros({2, 1}, DType::i64);
  EXPECT_THROW(gather(x, 2, index), ShapeError);
  EXPECT_THROW(gather(x, 1, zeros({2}, DType::i64)), ShapeError);
  EXPECT_THROW(gather(x, 1, zeros({3, 1}, DType::i64)), ShapeError);
  EXPECT_THROW(gather(x, 1, zeros({2, 1})), DTypeError);
  EXPECT_THROW(gather(x, 1, full({2, 1}, -1, DType::i32)), IndexError);
  EXPECT_THROW(gather(empty({2, 0}), 1, index), IndexError);
  EXPECT_THROW(scatter_add(x, 1, index, zeros({2, 2})), ShapeError);
  EXPECT_THROW(scatter_add(x, 1, index, zeros({2, 1}, DType::f64)), DTypeError);
  EXPECT_THROW(scatter_add(x.to(DType::u8), 1, index, zeros({2, 1}, DType::u8)), DTypeError);
  EXPECT_THROW(index_select(x, 1, index), ShapeError);
  EXPECT_THROW(index_select(x, 1, full({1}, 3, DType::i64)), IndexError);
  EXPECT_THROW(index_add(x, 0, full({1}, 2, DType::i64), zeros({1, 3})), IndexError);
  EXPECT_THROW(gather(Tensor(), 0, index), ShapeError);
  Tensor bad = zeros({2, 2}, DType::i64);
  bad.select(0, 1).select(0, 0).fill_(3);
  try {
    gather(x, 1, bad);
    FAIL();
  } catch (const IndexError& error) {
    EXPECT_STREQ(error.what(),
                 "gather: index 3 at position [1, 0] is outside axis 1 of [2, 3] f32 cpu");
  }
}

}  // namespace
}  // namespace weft
