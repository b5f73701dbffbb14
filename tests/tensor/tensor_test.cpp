#include "weft/tensor/tensor.h"

#include <gtest/gtest.h>

#include "weft/tensor/error.h"

namespace weft {
namespace {

Tensor counting(const Shape& shape) {
  return arange(0, shape.numel()).reshape(shape);
}

std::vector<int64_t> ints(const Tensor& tensor) {
  return tensor.to_vector<int64_t>();
}

TEST(Tensor, SliceTakesEveryStepthElementAndSharesThem) {
  Tensor x = counting({3, 4});
  Tensor columns = x.slice(1, 1, 4, 2);
  EXPECT_EQ(columns.shape(), (Shape{3, 2}));
  EXPECT_EQ(ints(columns), (std::vector<int64_t>{1, 3, 5, 7, 9, 11}));
  columns.fill_(-1);
  EXPECT_EQ(ints(x), (std::vector<int64_t>{0, -1, 2, -1, 4, -1, 6, -1, 8, -1, 10, -1}));
}

TEST(Tensor, SliceClipsItsBounds) {
  const Tensor x = counting({5});
  EXPECT_EQ(ints(x.slice(0, -2, 100)), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(x.slice(0, 4, 2).numel(), 0);
  EXPECT_THROW(x.slice(0, 0, 5, 0), ConfigError);
  EXPECT_THROW(x.slice(1, 0, 5), ShapeError);
}

TEST(Tensor, SelectDropsTheAxis) {
  const Tensor x = counting({2, 3, 2});
  EXPECT_EQ(ints(x.select(1, -1)), (std::vector<int64_t>{4, 5, 10, 11}));
  EXPECT_THROW(x.select(0, 2), IndexError);
}

TEST(Tensor, PermuteAndTransposeMoveAxes) {
  const Tensor x = counting({2, 3, 4});
  EXPECT_EQ(ints(x.permute({2, 0, 1})), ints(x.transpose(0, 2).transpose(1, 2)));
  EXPECT_EQ(ints(x.transpose(0, 1).select(0, 2).select(0, 1)),
            (std::vector<int64_t>{20, 21, 22, 23}));
  EXPECT_THROW(x.permute({0, 1}), ShapeError);
  EXPECT_THROW(x.permute({0, 1, 1}), ShapeError);
}

TEST(Tensor, ViewSharesOrRefusesAndReshapeCopies) {
  const Tensor x = counting({2, 3, 4});
  EXPECT_EQ(x.view({6, -1}).storage(), x.storage());
  const Tensor swapped = x.transpose(0, 1);
  EXPECT_THROW(swapped.view({24}), ShapeError);
  EXPECT_EQ(ints(swapped.reshape({24})).at(4), 12);
  EXPECT_EQ(swapped.view({3, 2, 2, 2}).storage(), x.storage());
  EXPECT_EQ(ints(swapped.view({3, 2, 2, 2})), ints(swapped));
  EXPECT_THROW(x.view({5, -1}), ShapeError);
  EXPECT_THROW(x.view({-1, -1}), ShapeError);
}

TEST(Tensor, EmptyTensorsReshape) {
  const Tensor x = empty({0, 3});
  EXPECT_EQ(x.view({3, 0}).shape(), (Shape{3, 0}));
  EXPECT_EQ(x.reshape({-1, 3}).shape(), (Shape{0, 3}));
  EXPECT_TRUE(x.to_vector<float>().empty());
  EXPECT_EQ(x.clone().shape(), x.shape());
}

TEST(Tensor, ExpandRepeatsWithoutCopying) {
  const Tensor x = counting({2, 1});
  const Tensor wide = x.expand({3, -1, 2});
  EXPECT_EQ(wide.storage(), x.storage());
  EXPECT_EQ(ints(wide), (std::vector<int64_t>{0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1}));
  EXPECT_THROW(Tensor(wide).fill_(1), ShapeError);
  EXPECT_THROW(x.expand({3, 2}), ShapeError);
}

TEST(Tensor, SqueezeUnsqueezeFlatten) {
  const Tensor x = counting({2, 1, 3});
  EXPECT_EQ(x.squeeze(1).shape(), (Shape{2, 3}));
  EXPECT_EQ(x.squeeze().shape(), (Shape{2, 3}));
  EXPECT_THROW(x.squeeze(0), ShapeError);
  EXPECT_EQ(x.unsqueeze(-1).shape(), (Shape{2, 1, 3, 1}));
  EXPECT_EQ(x.flatten(1, 2).shape(), (Shape{2, 3}));
  EXPECT_EQ(scalar(3).flatten().shape(), (Shape{1}));
}

TEST(Tensor, SplitCoversTheAxis) {
  const Tensor x = counting({7, 2});
  const auto pieces = x.split(3, 0);
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(ints(pieces[2]), (std::vector<int64_t>{12, 13}));
  const std::vector<int64_t> wrong = {3, 3};
  EXPECT_THROW(x.split(wrong, 0), ShapeError);
}

TEST(Tensor, CopyBroadcastsConvertsAndBumpsTheVersion) {
  Tensor x = zeros({2, 3}, DType::bf16);
  const uint64_t version = x.version();
  x.copy_(from_vector<double>({1.5, -2, 1e9}, {3}));
  EXPECT_GT(x.version(), version);
  EXPECT_EQ(x.to_vector<float>()[4], -2.0f);
  EXPECT_EQ(x.to(DType::boolean).to_vector<bool>(), std::vector<bool>(6, true));
  EXPECT_THROW(x.copy_(zeros({4})), ShapeError);
}

TEST(Tensor, DataChecksTheType) {
  const Tensor x = zeros({2});
  EXPECT_NO_THROW(x.data<float>());
  EXPECT_THROW(x.data<double>(), DTypeError);
  EXPECT_THROW(Tensor().raw_data(), ShapeError);
}

TEST(Tensor, ItemConvertsAndWantsOneElement) {
  EXPECT_EQ(scalar(2.5).item<double>(), 2.5);
  EXPECT_EQ(full({1, 1}, 7, DType::i64).item<int>(), 7);
  const int64_t large = (int64_t{1} << 53) + 1;
  EXPECT_EQ(from_vector<int64_t>({large}, {1}).item<int64_t>(), large);
  EXPECT_THROW(zeros({2}).item<float>(), ShapeError);
}

TEST(Tensor, ViewsOfViewsKeepTheirPlaceInTheStorage) {
  const Tensor x = counting({4, 5, 6});
  const Tensor part = x.slice(0, 1, 4, 2).select(1, 3).slice(1, 2, 6, 3);  // [1,3] x 3 x [2,5]
  EXPECT_EQ(part.offset(), 30 + 18 + 2);
  EXPECT_EQ(part.strides(), (Strides{60, 3}));
  EXPECT_EQ(ints(part), (std::vector<int64_t>{50, 53, 110, 113}));
  EXPECT_EQ(part.data<int64_t>(), x.data<int64_t>() + 50);
  EXPECT_EQ(ints(part.transpose(0, 1).unsqueeze(1).expand({2, 2, 2})),
            (std::vector<int64_t>{50, 110, 50, 110, 53, 113, 53, 113}));
  EXPECT_EQ(ints(part.reshape({4})), ints(part));
  EXPECT_THROW(part.view({4}), ShapeError);
}

TEST(Tensor, HandlesAndViewsShareOneVersion) {
  Tensor x = zeros({4});
  const Tensor handle = x;
  Tensor view = x.slice(0, 1, 3);
  const uint64_t version = x.version();
  view.fill_(2);
  EXPECT_EQ(handle.version(), version + 1);
  x.zero_();
  EXPECT_EQ(view.version(), version + 2);
  view.copy_(ones({2}));
  EXPECT_EQ(x.version(), version + 3);
  EXPECT_EQ(x.clone().version(), x.clone().version());
  (void)x.reshape({2, 2}).to_vector<float>();  // reading changes nothing
  EXPECT_EQ(x.version(), version + 3);
}

TEST(Tensor, KeepsItsStorageAliveThroughViews) {
  Tensor row;
  {
    const Tensor x = counting({3, 4});
    row = x.select(0, 1);
  }
  EXPECT_EQ(ints(row), (std::vector<int64_t>{4, 5, 6, 7}));
  EXPECT_EQ(row.storage().use_count(), 1);
}

TEST(Tensor, BorrowsMemoryOfOthersForAsLongAsItsOwnerLives) {
  const auto owner = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3});
  {
    const auto storage = std::make_shared<Storage>(owner->data(), 3 * sizeof(float), kCpu, owner);
    Tensor x(storage, Layout{{3}, {1}, 0}, DType::f32);
    EXPECT_EQ(owner.use_count(), 2);
    x.fill_(7);
  }
  EXPECT_EQ(owner.use_count(), 1);
  EXPECT_EQ(*owner, (std::vector<float>{7, 7, 7}));
}

TEST(Tensor, VectorsRoundTripInEveryType) {
  const auto round_trip = []<class T>(std::vector<T> values) {
    const Tensor x = from_vector(values, {static_cast<int64_t>(values.size())});
    EXPECT_EQ(x.dtype(), dtype_of<T>);
    const std::vector<T> back = x.template to_vector<T>();
    ASSERT_EQ(back.size(), values.size());
    for (size_t i = 0; i < values.size(); ++i)
      EXPECT_EQ(static_cast<double>(back[i]), static_cast<double>(values[i]));
  };
  round_trip(std::vector<double>{1.1, -2, 1e300});
  round_trip(std::vector<float>{1.5f, -2, 1e30f});
  round_trip(std::vector<bf16>{bf16(1.5f), bf16(-3)});
  round_trip(std::vector<f16>{f16(1.5f), f16(-3)});
  round_trip(std::vector<int64_t>{INT64_MIN, -1, INT64_MAX});
  round_trip(std::vector<int32_t>{INT32_MIN, -1, INT32_MAX});
  round_trip(std::vector<uint8_t>{0, 128, 255});
  round_trip(std::vector<bool>{true, false});
}

TEST(Tensor, UndefinedTensorsRefuseToBeRead) {
  const Tensor nothing;
  EXPECT_FALSE(nothing.defined());
  EXPECT_EQ(describe(nothing), "undefined");
  EXPECT_THROW(nothing.device(), ShapeError);
  EXPECT_THROW(nothing.data<float>(), Error);
}

TEST(Factories, CountUpAndDown) {
  EXPECT_EQ(ints(arange(2, 9, 3)), (std::vector<int64_t>{2, 5, 8}));
  EXPECT_EQ(ints(arange(5, -4, -3)), (std::vector<int64_t>{5, 2, -1}));
  EXPECT_EQ(arange(3, 3).numel(), 0);
  EXPECT_EQ(arange(3, 9, -1).numel(), 0);
  EXPECT_THROW(arange(0, 3, 0), ConfigError);
  EXPECT_EQ(arange(0, 3, 1, DType::bf16).dtype(), DType::bf16);
}

TEST(Factories, RefuseImpossibleShapes) {
  EXPECT_THROW(empty({-1}), ShapeError);
  EXPECT_THROW(empty({int64_t{1} << 40, int64_t{1} << 40}), ShapeError);
  EXPECT_THROW(empty({int64_t{1} << 62}), ShapeError);
  EXPECT_THROW(empty({1, 1, 1, 1, 1, 1, 1, 1, 1}), ShapeError);
  EXPECT_THROW(empty({1}, DType::f32, Device{DeviceType::cuda, 63}), DeviceError);
  EXPECT_THROW(from_vector<float>({1, 2}, {3}), ShapeError);
}

TEST(Allocator, ReusesBlocksCountsAndKeepsItsLimit) {
  const auto allocator = make_cpu_allocator(1 << 20);
  const Stream stream(kCpu);
  void* first = allocator->allocate(1000, stream);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
  EXPECT_GE(allocator->stats().allocated, 1000);
  allocator->deallocate(first, 1000, stream);
  EXPECT_EQ(allocator->stats().allocated, 0);
  EXPECT_EQ(allocator->allocate(1000, stream), first);
  EXPECT_THROW(allocator->allocate(2 << 20, stream), OutOfMemoryError);
  allocator->deallocate(first, 1000, stream);
  EXPECT_NO_THROW(allocator->deallocate(allocator->allocate(1 << 20, stream), 1 << 20,
                                        stream));  // evicts the cache
  allocator->empty_cache();
  EXPECT_EQ(allocator->stats().reserved, 0);
  EXPECT_GE(allocator->stats().peak_allocated, 1 << 20);
}

TEST(Device, ParsesAndPrints) {
  EXPECT_EQ(parse_device("cpu"), kCpu);
  EXPECT_EQ(to_string(parse_device("cuda:3")), "cuda:3");
  for (const char* text : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x"})
    EXPECT_THROW(parse_device(text), ConfigError) << text;
}

TEST(DType, NamesRoundTrip) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32,
                      DType::u8, DType::boolean}) {
    EXPECT_EQ(parse_dtype(to_string(dtype)), dtype);
  }
  EXPECT_THROW(parse_dtype("float"), ConfigError);
}

}  // namespace
}  // namespace weft
