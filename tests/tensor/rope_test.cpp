#include "weft/tensor/ops/rope.h"

#include <cmath>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft {
namespace {

using test::expect_near;
using test::random_tensor;

/// Turns channels [begin, begin + dim) of x [B, T, H, D] by position(b, t).
template <class Position>
std::vector<double> reference(const Tensor& x, double theta, int64_t begin, int64_t dim,
                              Position position, double direction = 1) {
  std::vector<double> values = x.to_vector<double>();
  const int64_t channels = x.size(3);
  for (int64_t b = 0; b < x.size(0); ++b) {
    for (int64_t t = 0; t < x.size(1); ++t) {
      for (int64_t h = 0; h < x.size(2); ++h) {
        double* const head =
            values.data() + ((b * x.size(1) + t) * x.size(2) + h) * channels + begin;
        for (int64_t i = 0; i < dim / 2; ++i) {
          const double angle =
              direction * static_cast<double>(position(b, t)) *
              std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
          const double low = head[i];
          const double high = head[i + dim / 2];
          head[i] = low * std::cos(angle) - high * std::sin(angle);
          head[i + dim / 2] = low * std::sin(angle) + high * std::cos(angle);
        }
      }
    }
  }
  return values;
}

class Rope : public testing::TestWithParam<DType> {
 protected:
  DType dtype() const { return GetParam(); }
  double relative() const { return dtype() == DType::f64 ? 1e-13 : test::rounding_error(dtype()); }
  double absolute() const { return dtype() == DType::f64 ? 1e-12 : 1e-6; }
};

TEST_P(Rope, MatchesItsDefinition) {
  for (const Shape& shape :
       {Shape{1, 1, 1, 2}, Shape{2, 7, 3, 6}, Shape{2, 33, 4, 64}, Shape{1, 15, 2, 192}}) {
    SCOPED_TRACE(to_string(shape));
    const Tensor x = random_tensor(shape, dtype());
    const auto plain = [](int64_t, int64_t t) { return t; };
    expect_near(rope(x), reference(x, 10000, 0, shape[3], plain), relative(), absolute());
    expect_near(rope_backward(x), reference(x, 10000, 0, shape[3], plain, -1), relative(),
                absolute());
    const auto later = [](int64_t, int64_t t) { return 100000 + t; };
    expect_near(rope(x, {.theta = 500, .offset = 100000}), reference(x, 500, 0, shape[3], later),
                relative(), absolute());
  }
}

TEST_P(Rope, TurnsPartOfTheChannels) {
  const Tensor x = random_tensor({2, 5, 3, 50}, dtype());
  const auto plain = [](int64_t, int64_t t) { return t; };
  expect_near(rope(x, {.rotary_dim = 36}), reference(x, 10000, 0, 36, plain), relative(),
              absolute());
  expect_near(rope(x, {.rotary_begin = 34}), reference(x, 10000, 34, 16, plain), relative(),
              absolute());
  Tensor in_place = x.clone();
  rope_(in_place, {.rotary_begin = 3, .rotary_dim = 8});
  expect_near(in_place, reference(x, 10000, 3, 8, plain), relative(), absolute());
}

TEST_P(Rope, TakesPositions) {
  const Tensor x = random_tensor({2, 4, 3, 32}, dtype());
  const std::vector<int64_t> places = {5, 0, 7, 7, 1, 900, 3, 2};
  const Tensor both = from_vector(places, {2, 4});
  const auto at = [&](int64_t b, int64_t t) { return places[static_cast<size_t>(b * 4 + t)]; };
  expect_near(rope(x, {.positions = both}), reference(x, 10000, 0, 32, at), relative(), absolute());
  const auto first = [&](int64_t, int64_t t) { return places[static_cast<size_t>(t)]; };
  expect_near(rope(x, {.positions = both.select(0, 0)}), reference(x, 10000, 0, 32, first),
              relative(), absolute());
  // Beyond what is kept in tables; the reference's own angles are only good to 1e-9 here.
  const Tensor far = from_vector<int64_t>({1 << 22, 0, 3, 1 << 24}, {4});
  const auto far_at = [&](int64_t, int64_t t) {
    return far.to_vector<int64_t>()[static_cast<size_t>(t)];
  };
  expect_near(rope(x, {.positions = far}), reference(x, 10000, 0, 32, far_at), relative(),
              std::max(absolute(), 1e-7));
  const auto offset = [](int64_t, int64_t t) { return (1 << 22) + t; };
  expect_near(rope(x, {.offset = 1 << 22}), reference(x, 10000, 0, 32, offset), relative(),
              std::max(absolute(), 1e-7));
}

TEST_P(Rope, TakesAStride) {
  const Tensor x = random_tensor({2, 70, 3, 32}, dtype());
  const auto at = [](int64_t, int64_t t) { return 3 + 16 * t; };
  expect_near(rope(x, {.offset = 3, .stride = 16}), reference(x, 10000, 0, 32, at), relative(),
              absolute());
  const auto far = [](int64_t, int64_t t) { return (1 << 22) + 5 * t; };
  expect_near(rope(x, {.offset = 1 << 22, .stride = 5}), reference(x, 10000, 0, 32, far),
              relative(), std::max(absolute(), 1e-7));
  const DType table_dtype = dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor table = rope_table(10000, 32, 3 + 16 * 69, table_dtype);
  EXPECT_THROW(rope(x, {.offset = 3, .stride = 16, .table = table}), IndexError);
  EXPECT_THROW(rope(x, {.stride = 0}), ConfigError);
}

TEST_P(Rope, TakesATable) {
  const DType table_dtype = dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor x = random_tensor({2, 4, 3, 32}, dtype());
  const Tensor table = rope_table(77, 32, 9, table_dtype);
  EXPECT_EQ(rope(x, {.offset = 5, .table = table}).to_vector<double>(),
            rope(x, {.theta = 77, .offset = 5}).to_vector<double>());
  EXPECT_THROW(rope(x, {.offset = 6, .table = table}), IndexError);
  EXPECT_THROW(rope(x, {.table = table.slice(1, 0, 16)}), ShapeError);
}

TEST_P(Rope, BackwardUndoesForward) {
  const Tensor x = random_tensor({2, 9, 2, 64}, dtype());
  expect_near(rope_backward(rope(x, {.offset = 40}), {.offset = 40}), x.to_vector<double>(), 0,
              dtype() == DType::f64 ? 1e-13 : 8 * test::rounding_error(dtype()));
}

TEST_P(Rope, LayoutsAndAliasesGiveTheSameBits) {
  for (const Shape& shape : {Shape{2, 5, 3, 38}, Shape{2, 1, 1, 16}}) {
    const Tensor x = random_tensor(shape, dtype());
    const RopeOptions options{.rotary_begin = 2, .rotary_dim = 10, .offset = 3};
    const std::vector<double> expected = rope(x, options).to_vector<double>();
    for (const auto& layout : {test::with_gaps, test::scattered}) {
      EXPECT_EQ(rope(layout(x), options).to_vector<double>(), expected);
      Tensor in_place = layout(x);
      const uint64_t version = in_place.version();
      rope_(in_place, options);
      EXPECT_EQ(in_place.to_vector<double>(), expected);
      EXPECT_GT(in_place.version(), version);
      Tensor out = layout(zeros(shape, dtype()));
      rope_into(out, x, options);
      EXPECT_EQ(out.to_vector<double>(), expected);
    }
    // Heads first, as some attention kernels want it.
    Tensor heads_first = zeros({shape[0], shape[2], shape[1], shape[3]}, dtype());
    Tensor view = heads_first.transpose(1, 2);
    rope_into(view, x, options);
    EXPECT_EQ(heads_first.transpose(1, 2).to_vector<double>(), expected);
  }
  // A result that overlaps its own source at another place.
  Tensor buffer = random_tensor({1, 6, 1, 8}, dtype());
  const Tensor source = buffer.slice(1, 0, 5);
  const std::vector<double> expected = rope(source).to_vector<double>();
  Tensor out = buffer.slice(1, 1, 6);
  rope_into(out, source);
  EXPECT_EQ(out.to_vector<double>(), expected);
}

TEST_P(Rope, PackedProjection) {
  const QkvSplit split{.heads = 4, .kv_heads = 2, .head_dim = 16, .value_head_dim = 12};
  ASSERT_EQ(split.width(), 4 * 16 + 2 * 16 + 2 * 12);
  const Tensor packed = random_tensor({2, 7, split.width()}, dtype());
  const RopeOptions options{.offset = 11};
  const Qkv parts = split_qkv(packed, split);
  const Qkv turned = rope_qkv(packed, split, options);
  EXPECT_EQ(turned.q.to_vector<double>(), rope(parts.q.contiguous(), options).to_vector<double>());
  EXPECT_EQ(turned.k.to_vector<double>(), rope(parts.k.contiguous(), options).to_vector<double>());
  EXPECT_EQ(turned.v.storage(), packed.storage());
  EXPECT_EQ(turned.v.shape(), (Shape{2, 7, 2, 12}));
  EXPECT_EQ(turned.v.select(2, 1).to_vector<double>(),
            packed.slice(2, split.width() - 12, split.width()).to_vector<double>());

  const Tensor dpacked =
      rope_qkv_backward({turned.q, turned.k, turned.v}, packed.shape(), dtype(), split, options);
  expect_near(dpacked, packed.to_vector<double>(), 0,
              dtype() == DType::f64 ? 1e-13 : 8 * test::rounding_error(dtype()));
  const Tensor keys_alone =
      rope_qkv_backward({{}, turned.k, {}}, packed.shape(), dtype(), split, options);
  const Qkv found = split_qkv(keys_alone, split);
  EXPECT_EQ(found.q.to_vector<double>(), std::vector<double>(2 * 7 * 4 * 16, 0.0));
  EXPECT_EQ(found.k.to_vector<double>(), split_qkv(dpacked, split).k.to_vector<double>());
  EXPECT_EQ(split_qkv_backward({parts.q, parts.k, parts.v}, packed.shape(), dtype(), split)
                .to_vector<double>(),
            packed.to_vector<double>());
}

INSTANTIATE_TEST_SUITE_P(Types, Rope,
                         testing::Values(DType::f64, DType::f32, DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST(RopeEdges, Empty) {
  EXPECT_EQ(rope(empty({0, 4, 2, 8})).shape(), (Shape{0, 4, 2, 8}));
  EXPECT_EQ(rope(empty({2, 0, 2, 8})).shape(), (Shape{2, 0, 2, 8}));
}

TEST(RopeEdges, TablesOfOneThetaDoNotServeAnother) {
  const Tensor x = ones({1, 3, 1, 4});
  EXPECT_NE(rope(x, {.theta = 10}).to_vector<float>(), rope(x, {.theta = 20}).to_vector<float>());
  for (int i = 1; i < 20; ++i) rope(x, {.theta = 100.0 * i});  // more than are kept
  const auto plain = [](int64_t, int64_t t) { return t; };
  expect_near(rope(x, {.theta = 100}), reference(x, 100, 0, 4, plain), 1e-6, 1e-6);
}

TEST(RopeErrors, NameTheArgument) {
  const Tensor x = zeros({2, 3, 2, 8});
  EXPECT_THROW(rope(zeros({3, 2, 8})), ShapeError);
  EXPECT_THROW(rope(zeros({2, 3, 2, 8}, DType::i64)), DTypeError);
  EXPECT_THROW(rope(zeros({2, 3, 2, 7})), ConfigError);
  EXPECT_THROW(rope(x, {.theta = 0}), ConfigError);
  EXPECT_THROW(rope(x, {.rotary_dim = 10}), ConfigError);
  EXPECT_THROW(rope(x, {.rotary_begin = 4, .rotary_dim = 6}), ConfigError);
  EXPECT_THROW(rope(x, {.rotary_begin = -1}), ConfigError);
  EXPECT_THROW(rope(x, {.rotary_begin = 8}), ConfigError);
  EXPECT_THROW(rope(x, {.offset = -1}), IndexError);
  EXPECT_THROW(rope(x, {.positions = from_vector<int64_t>({0, -1, 2}, {3})}), IndexError);
  EXPECT_THROW(rope(x, {.positions = zeros({2}, DType::i64)}), ShapeError);
  EXPECT_THROW(rope(x, {.positions = zeros({3})}), DTypeError);
  EXPECT_THROW(rope(x, {.offset = 1, .positions = zeros({3}, DType::i64)}), ConfigError);
  Tensor narrow = zeros({2, 3, 2, 6});
  EXPECT_THROW(rope_into(narrow, x), ShapeError);
  Tensor repeated = zeros({1, 3, 2, 8}).expand({2, 3, 2, 8});
  EXPECT_THROW(rope_(repeated), ShapeError);
  EXPECT_THROW(split_qkv(zeros({2, 3, 9}), {.heads = 2, .kv_heads = 1, .head_dim = 2}), ShapeError);
  EXPECT_THROW(split_qkv(zeros({2, 3, 8}), {.heads = 0, .kv_heads = 1, .head_dim = 2}),
               ConfigError);
}

}  // namespace
}  // namespace weft
