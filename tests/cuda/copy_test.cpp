#include <limits>
#include <sstream>

#include "weft/tensor/error.h"
#include "weft/tensor/pinned.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

#include "devices.h"

namespace weft {
namespace {

using test::expect_same;
using test::in_all_layouts;
using test::kGpu;
using test::mirrored;
using test::random_of_type;

class CudaCopy : public test::CudaTest {};

TEST_F(CudaCopy, MovesThereAndBack) {
  for (const DType dtype : kEveryDType) {
    for (const Shape& shape : test::elementwise_shapes()) {
      const Tensor original = random_of_type(shape, dtype, 1);
      for (const Tensor& layout : in_all_layouts(original)) {
        const Tensor moved = layout.to(kGpu);
        EXPECT_EQ(moved.device(), kGpu);
        EXPECT_TRUE(moved.is_contiguous());
        expect_same(moved, original, "to the GPU");
        const Tensor back = mirrored(layout).to(kCpu);
        EXPECT_EQ(back.to_vector<double>(), original.to_vector<double>());
      }
    }
  }
}

/// Numbers at which conversions differ.
Tensor extremes() {
  const double inf = std::numeric_limits<double>::infinity();
  return from_vector<double>({0.0,        -0.0,
                              1.0,        -1.0,
                              0.5,        -0.5,
                              2.5,        255.0,
                              256.0,      -300.0,
                              65504.0,    65520.0,
                              1e-8,       1e9,
                              -3e9,       1e19,
                              -1e19,      1e39,
                              -1e300,     inf,
                              -inf,       std::numeric_limits<double>::quiet_NaN(),
                              1.00390625, 3.0e-39},
                             {24});
}

TEST_F(CudaCopy, ConvertsEveryPairOfTypes) {
  for (const DType from : kEveryDType) {
    const Tensor source = extremes().to(from);
    const Tensor many = random_of_type({37, 40}, from, 2);
    for (const DType to : kEveryDType) {
      SCOPED_TRACE(std::string(to_string(from)) + " to " + std::string(to_string(to)));
      expect_same(mirrored(source).to(to), source.to(to), "extremes");
      for (const Tensor& layout : in_all_layouts(many))
        expect_same(mirrored(layout).to(to), many.to(to), "many");
    }
  }
}

TEST_F(CudaCopy, ConvertsBetweenDevices) {
  const Tensor source = random_of_type({5, 9}, DType::f32, 3);
  Tensor there = empty({5, 9}, DType::bf16, kGpu);
  there.copy_(source);
  expect_same(there, source.to(DType::bf16));
  Tensor back = empty({9, 5}, DType::f64).transpose(0, 1);
  back.copy_(there);
  EXPECT_EQ(back.to_vector<double>(), source.to(DType::bf16).to_vector<double>());
}

TEST_F(CudaCopy, WritesEveryLayout) {
  for (const DType dtype : kEveryDType) {
    const Tensor source = random_of_type({6, 10, 17}, dtype, 4);
    for (const Tensor& from : in_all_layouts(source)) {
      for (const Tensor& to : in_all_layouts(random_of_type({6, 10, 17}, dtype, 5))) {
        Tensor expected = to;
        Tensor whole = mirrored(to);
        whole.copy_(mirrored(from));
        expect_same(whole, source, "view");
        // Nothing beside the view may change.
        const auto count = static_cast<int64_t>(to.storage()->bytes() / size_of(dtype));
        expected.copy_(from);
        expect_same(Tensor(whole.storage(), Layout{{count}, {1}, 0}, dtype),
                    Tensor(expected.storage(), Layout{{count}, {1}, 0}, dtype), "storage");
      }
    }
  }
}

TEST_F(CudaCopy, BroadcastsAndOverlaps) {
  const Tensor row = random_of_type({1, 33}, DType::f32, 6);
  Tensor rows = empty({20, 33}, DType::f32, kGpu);
  rows.copy_(mirrored(row));
  expect_same(rows, row.expand({20, 33}).clone());
  Tensor expected = random_of_type({100}, DType::f32, 7);
  Tensor actual = mirrored(expected);
  expected.slice(0, 1, 100).copy_(expected.slice(0, 0, 99));
  actual.slice(0, 1, 100).copy_(actual.slice(0, 0, 99));
  expect_same(actual, expected, "shifted");
}

TEST_F(CudaCopy, TransposesInTiles) {
  for (const DType dtype : {DType::u8, DType::bf16, DType::f32, DType::f64}) {
    for (const Shape& shape : std::vector<Shape>{{100, 70}, {8, 9}, {3, 65, 33}, {64, 2, 32, 5}}) {
      const Tensor x = random_of_type(shape, dtype, 12);
      const Tensor y = mirrored(x);
      const int last = x.rank() - 1;
      expect_same(y.transpose(0, last).clone(), x.transpose(0, last).clone(), "outer");
      expect_same(y.transpose(last - 1, last).clone(), x.transpose(last - 1, last).clone(),
                  "inner");
    }
  }
}

TEST_F(CudaCopy, TransposesWholeAndRaggedTilesOfPacks) {
  // Rows of whole packs and not, of one tile and of many, and matrices within others.
  const std::vector<Shape> shapes{{64, 64},       {8, 8},        {16, 1040}, {72, 136},
                                  {1024, 520},    {67, 129},     {128, 15},  {3, 144, 80},
                                  {2, 48, 3, 64}, {2, 40, 1, 32}};
  for (const DType dtype : {DType::u8, DType::bf16, DType::f32, DType::f64}) {
    for (const Shape& shape : shapes) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << shape.numel());
      const int last = shape.rank() - 1;
      const Tensor x = random_of_type(shape, dtype, 13);
      const Tensor y = mirrored(x);
      expect_same(y.transpose(last - 1, last).clone(), x.transpose(last - 1, last).clone(), "last");
      expect_same(y.transpose(0, last).clone(), x.transpose(0, last).clone(), "ends");
      if (last > 1) expect_same(y.transpose(0, 1).clone(), x.transpose(0, 1).clone(), "first");
    }
    // Parts of lines that are aligned to packs, and that begin beside them, into such lines.
    const Tensor x = random_of_type({96, 200}, dtype, 14);
    const Tensor y = mirrored(x);
    for (const int64_t first : {0, 16, 1, 8}) {
      for (const int64_t columns : {160, 163}) {
        const Tensor part = x.slice(1, first, first + columns).transpose(0, 1);
        Tensor expected = random_of_type({180, 112}, dtype, 15);
        Tensor actual = mirrored(expected);
        expected.slice(0, 3, 3 + columns).slice(1, first, first + 96).copy_(part);
        actual.slice(0, 3, 3 + columns)
            .slice(1, first, first + 96)
            .copy_(y.slice(1, first, first + columns).transpose(0, 1));
        expect_same(actual, expected, "part");
      }
    }
  }
}

TEST_F(CudaCopy, Fills) {
  for (const DType dtype : kEveryDType) {
    for (const double value : {0.0, 1.0, 3.0, -0.0}) {
      for (const Shape& shape : test::elementwise_shapes())
        expect_same(full(shape, value, dtype, kGpu), full(shape, value, dtype), "full");
      for (const Tensor& layout : in_all_layouts(random_of_type({11, 12}, dtype, 8))) {
        Tensor actual = mirrored(layout);
        actual.fill_(value);
        expect_same(actual, full({11, 12}, value, dtype), "view");
      }
    }
  }
}

TEST_F(CudaCopy, MakesAndPrintsTensors) {
  expect_same(arange(3, 40, 5, DType::i32, kGpu), arange(3, 40, 5, DType::i32));
  EXPECT_EQ(scalar(2.5, DType::f32, kGpu).item<double>(), 2.5);
  EXPECT_EQ(arange(0, 9, 1, DType::i64, kGpu).select(0, 7).item<int64_t>(), 7);
  std::ostringstream text;
  text << arange(0, 3, 1, DType::i64, kGpu);
  EXPECT_EQ(text.str(), "[3] i64 cuda:0 [0, 1, 2]");
}

TEST_F(CudaCopy, ReadsPageLockedMemory) {
  Tensor pinned = empty_pinned({1000, 33});
  const Tensor values = random_of_type({1000, 33}, DType::f32, 9);
  pinned.copy_(values);
  const Tensor moved = pinned.to(kGpu);
  expect_same(moved, values);
  // The block is used again, but not while a copy still reads it.
  const Tensor other = random_of_type({1000, 33}, DType::f32, 10);
  std::vector<Tensor> all;
  for (int i = 0; i < 20; ++i) {
    Tensor staged = empty_pinned({1000, 33});
    staged.copy_(i % 2 == 0 ? values : other);
    all.push_back(staged.to(kGpu));
  }
  for (size_t i = 0; i < all.size(); ++i) expect_same(all[i], i % 2 == 0 ? values : other);
}

TEST_F(CudaCopy, RunsOnTheCurrentStream) {
  SideStream side(kGpu);
  Event done(kGpu);
  const Tensor values = random_of_type({777}, DType::f32, 11);
  Tensor moved;
  {
    const StreamGuard guard(side.stream());
    EXPECT_EQ(current_stream(kGpu).native_handle(), side.stream().native_handle());
    moved = values.to(kGpu);
    done.record(side.stream());
  }
  EXPECT_NE(current_stream(kGpu).native_handle(), side.stream().native_handle());
  done.make_wait(current_stream(kGpu));
  expect_same(moved.clone(), values);
}

}  // namespace
}  // namespace weft
