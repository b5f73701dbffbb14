#include "weft/tensor/ops/random.h"

#include "weft/tensor/ops/dropout.h"

#include "devices.h"

namespace weft {
namespace {

using test::expect_same;
using test::in_all_layouts;
using test::kGpu;
using test::mirrored;
using test::random_of_type;

class CudaRandom : public test::CudaTest {};

constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

/// Two generators in the same state, away from the start of the stream.
struct Pair {
  Generator cpu{42};
  Generator gpu{42};
  Pair() {
    cpu.reserve(5);
    gpu.reserve(5);
  }
};

std::vector<Shape> shapes() {
  std::vector<Shape> shapes = test::elementwise_shapes();
  shapes.push_back({100003});
  return shapes;
}

TEST_F(CudaRandom, DrawsTheSameBits) {
  for (const Shape& shape : shapes()) {
    Pair pair;
    for (const DType dtype : kFloating) {
      expect_same(uniform(shape, pair.gpu, dtype, kGpu), uniform(shape, pair.cpu, dtype));
      expect_same(normal(shape, pair.gpu, dtype, kGpu), normal(shape, pair.cpu, dtype), "normal");
    }
    for (const DType dtype : kEveryDType) {
      expect_same(bernoulli(0.3, shape, pair.gpu, dtype, kGpu),
                  bernoulli(0.3, shape, pair.cpu, dtype), "bernoulli");
    }
    for (const DType dtype : {DType::i64, DType::i32, DType::u8})
      expect_same(randint(3, 200, shape, pair.gpu, dtype, kGpu),
                  randint(3, 200, shape, pair.cpu, dtype), "randint");
    EXPECT_EQ(pair.gpu.state().offset, pair.cpu.state().offset);
  }
  Pair pair;
  expect_same(randint(-5, (int64_t{1} << 32) - 5, {1000}, pair.gpu, DType::i64, kGpu),
              randint(-5, (int64_t{1} << 32) - 5, {1000}, pair.cpu), "randint");
  expect_same(permutation(1001, pair.gpu, kGpu), permutation(1001, pair.cpu));
}

TEST_F(CudaRandom, DrawsTheSameBitsForManyElementsAndAnyEnd) {
  // The fast square root of normal numbers has to be right for all words that come.
  Pair pair;
  expect_same(normal({1 << 22}, pair.gpu, DType::f32, kGpu), normal({1 << 22}, pair.cpu), "normal");
  // Across a carry into the upper half of the counter.
  pair.cpu.set_state({(uint64_t{7} << 33) + 5, (uint64_t{3} << 32) - 20});
  pair.gpu.set_state(pair.cpu.state());
  expect_same(uniform({1000}, pair.gpu, DType::bf16, kGpu), uniform({1000}, pair.cpu, DType::bf16),
              "carry");
  for (int64_t size = 1; size <= 40; ++size) {
    for (const DType dtype : kFloating) {
      for (const int64_t first : {0, 1, 4, 8}) {
        // Ends beside whole packs; what lies around is left alone.
        Tensor expected = random_of_type({64}, dtype, 5);
        Tensor actual = mirrored(expected);
        Tensor part = expected.slice(0, first, first + size);
        Tensor part_on_gpu = actual.slice(0, first, first + size);
        normal_(part, 0, 1, pair.cpu);
        normal_(part_on_gpu, 0, 1, pair.gpu);
        expect_same(actual, expected, "normal");
        uniform_(part, 0, 1, pair.cpu);
        uniform_(part_on_gpu, 0, 1, pair.gpu);
        expect_same(actual, expected, "uniform");
        expect_same(dropout(part_on_gpu, 0.5, pair.gpu), dropout(part, 0.5, pair.cpu), "dropout");
      }
    }
    for (const DType dtype : {DType::u8, DType::i32, DType::i64}) {
      expect_same(randint(3, 200, {size}, pair.gpu, dtype, kGpu),
                  randint(3, 200, {size}, pair.cpu, dtype), "randint");
    }
  }
}

TEST_F(CudaRandom, FillsEveryLayout) {
  for (const DType dtype : kFloating) {
    for (const Tensor& layout : in_all_layouts(random_of_type({7, 6, 23}, dtype, 1))) {
      Pair pair;
      Tensor expected = layout.clone();
      Tensor actual = mirrored(layout);
      uniform_(expected, -1, 3, pair.cpu);
      uniform_(actual, -1, 3, pair.gpu);
      expect_same(actual, expected, "uniform");
      normal_(expected, 1, 0.5, pair.cpu);
      normal_(actual, 1, 0.5, pair.gpu);
      expect_same(actual, expected, "normal");
    }
  }
}

TEST_F(CudaRandom, DropsTheSameElements) {
  for (const DType dtype : kFloating) {
    for (const Shape& shape : shapes()) {
      Pair pair;
      const Tensor x = random_of_type(shape, dtype, 2);
      for (const double p : {0.0, 0.1, 0.9})
        expect_same(dropout(mirrored(x), p, pair.gpu), dropout(x, p, pair.cpu), "dropout");
    }
    const Tensor x = random_of_type({7, 6, 23}, dtype, 3);
    for (const Tensor& layout : in_all_layouts(x)) {
      Pair pair;
      expect_same(dropout(mirrored(layout), 0.4, pair.gpu), dropout(x, 0.4, pair.cpu), "layout");
    }
  }
}

}  // namespace
}  // namespace weft
