#include "weft/tensor/ops/softmax.h"

#include <functional>
#include <limits>

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
using test::underflow_error;
using test::with_gaps;

constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

using Line = std::vector<double>;
using LineFunction = std::function<Line(const Line&, const Line&)>;

/// Applies `f` to the lines of a and b along `axis`.
std::vector<double> for_each_line(const Tensor& a, const Tensor& b, int axis,
                                  const LineFunction& f) {
  const Tensor moved_a = a.transpose(axis, -1);
  const Tensor moved_b = b.transpose(axis, -1);
  const std::vector<double> from_a = moved_a.to_vector<double>();
  const std::vector<double> from_b = moved_b.to_vector<double>();
  const int64_t n = a.size(axis);
  std::vector<double> result;
  for (int64_t start = 0; n > 0 && start < a.numel(); start += n) {
    const Line line = f(Line(from_a.begin() + start, from_a.begin() + start + n),
                        Line(from_b.begin() + start, from_b.begin() + start + n));
    result.insert(result.end(), line.begin(), line.end());
  }
  return from_vector(result, moved_a.shape()).transpose(axis, -1).to_vector<double>();
}

Line softmax_of(const Line& x, const Line&) {
  double largest = -kInfinity;
  for (double v : x) largest = std::max(largest, v);
  double sum = 0;
  for (double v : x) sum += std::exp(v - largest);
  Line y;
  for (double v : x) y.push_back(std::exp(v - largest) / sum);
  return y;
}
Line log_softmax_of(const Line& x, const Line&) {
  double largest = -kInfinity;
  for (double v : x) largest = std::max(largest, v);
  double sum = 0;
  for (double v : x) sum += std::exp(v - largest);
  Line y;
  for (double v : x) y.push_back(v - largest - std::log(sum));
  return y;
}
Line softmax_backward_of(const Line& dy, const Line& y) {
  double product = 0;
  for (size_t i = 0; i < y.size(); ++i) product += dy[i] * y[i];
  Line dx;
  for (size_t i = 0; i < y.size(); ++i) dx.push_back(y[i] * (dy[i] - product));
  return dx;
}
Line log_softmax_backward_of(const Line& dy, const Line& y) {
  double sum = 0;
  for (double v : dy) sum += v;
  Line dx;
  for (size_t i = 0; i < y.size(); ++i) dx.push_back(dy[i] - std::exp(y[i]) * sum);
  return dx;
}

const Shape kShapes[] = {{1}, {15}, {63, 111}, {3, 1500}, {4, 15, 7}, {2, 3, 1, 5}, {7, 0}, {0, 7}};

TEST(Softmax, MatchesLoopsForEveryTypeAxisAndLayout) {
  for (const Shape& shape : kShapes) {
    for (DType dtype : kFloating) {
      const Tensor x = random_tensor(shape, dtype, 1, -9, 9);
      const double rounding = rounding_error(dtype);
      // The rounding of x - max (up to 18), of the sum, the power and the scaling; then of the
      // result.
      const double relative =
          rounding + 26 * rounding_error(dtype == DType::f64 ? dtype : DType::f32);
      for (const Tensor& layout : {x, with_gaps(x), scattered(x)}) {
        for (int axis = 0; axis < x.rank(); ++axis) {
          const Tensor y = softmax(layout, axis % 2 ? axis : axis - x.rank());
          EXPECT_EQ(y.shape(), shape);
          EXPECT_EQ(y.dtype(), dtype);
          EXPECT_TRUE(y.is_contiguous());
          expect_near(y, for_each_line(x, x, axis, softmax_of), relative, underflow_error(dtype),
                      "softmax");
          expect_near(log_softmax(layout, axis), for_each_line(x, x, axis, log_softmax_of),
                      relative, 27 * relative, "log_softmax");
        }
      }
    }
  }
}

TEST(Softmax, BackwardMatchesLoops) {
  for (const Shape& shape : kShapes) {
    for (DType dtype : kFloating) {
      const Tensor x = random_tensor(shape, dtype, 1, -3, 3);
      const Tensor dy = random_tensor(shape, dtype, 2);
      const double rounding = rounding_error(dtype);
      const double exact = rounding_error(dtype == DType::f64 ? dtype : DType::f32);
      for (int axis = 0; axis < x.rank(); ++axis) {
        const Tensor y = softmax(x, axis);
        const Tensor log_y = log_softmax(x, axis);
        const auto dx = for_each_line(dy, y, axis, softmax_backward_of);
        const auto log_dx = for_each_line(dy, log_y, axis, log_softmax_backward_of);
        for (bool strided : {false, true}) {
          const Tensor grad = strided ? scattered(dy) : with_gaps(dy);
          const Tensor value = strided ? scattered(y) : y;
          const Tensor log_value = strided ? with_gaps(log_y) : log_y;
          expect_near(softmax_backward(grad, value, axis), dx, rounding,
                      64 * exact + underflow_error(dtype), "softmax_backward");
          expect_near(log_softmax_backward(grad, log_value, axis), log_dx, rounding, 2000 * exact,
                      "log_softmax_backward");
        }
        const Tensor same = ones({1}, dtype).expand(shape);
        expect_near(softmax_backward(same, y, axis),
                    for_each_line(same, y, axis, softmax_backward_of), rounding, 64 * exact);
      }
    }
  }
}

TEST(Softmax, LargeInputsDoNotOverflow) {
  for (DType dtype : kFloating) {
    const double big = dtype == DType::f16 ? 6e4 : 3e38;
    const Tensor x = from_vector<double>({big, -big, big}, {3}).to(dtype);
    EXPECT_EQ(softmax(x, 0).to_vector<double>(), (std::vector<double>{0.5, 0, 0.5}));
  }
}

TEST(Softmax, FullyMaskedRowsGiveZerosAndNoGradient) {
  for (DType dtype : kFloating) {
    for (int64_t length : {3, 40, 1300}) {
      Tensor x = random_tensor({3, length}, dtype);
      x.select(0, 1).fill_(-kInfinity);
      x.select(0, 2).slice(0, 1, length).fill_(-kInfinity);
      const Tensor y = softmax(x);
      EXPECT_EQ(y.select(0, 1).to_vector<double>(),
                std::vector<double>(static_cast<size_t>(length), 0));
      std::vector<double> one_hot(static_cast<size_t>(length), 0);
      one_hot[0] = 1;
      EXPECT_EQ(y.select(0, 2).to_vector<double>(), one_hot);
      const Tensor log_y = log_softmax(x);
      EXPECT_EQ(log_y.select(0, 1).to_vector<double>(),
                std::vector<double>(static_cast<size_t>(length), -kInfinity));
      EXPECT_EQ(log_y.select(0, 2).to_vector<double>()[0], 0);
      const Tensor dy = random_tensor({3, length}, dtype, 2);
      for (const Tensor& dx : {softmax_backward(dy, y), log_softmax_backward(dy, log_y)}) {
        EXPECT_EQ(dx.select(0, 1).to_vector<double>(),
                  std::vector<double>(static_cast<size_t>(length), 0));
        for (double v : dx.to_vector<double>()) EXPECT_FALSE(std::isnan(v));
      }
    }
  }
}

TEST(Softmax, NaNAndInfinityMakeTheirRowNaN) {
  for (double bad : {kNaN, kInfinity}) {
    for (int64_t length : {2, 33, 1200}) {
      for (int64_t place : {int64_t{0}, length - 1}) {
        Tensor x = full({2, length}, -kInfinity);
        x.select(0, 1).fill_(1);
        x.select(0, 0).select(0, place).fill_(bad);
        for (const Tensor& y : {softmax(x), log_softmax(x)}) {
          const std::vector<double> values = y.to_vector<double>();
          EXPECT_TRUE(std::isnan(values[static_cast<size_t>(place)]));
          EXPECT_FALSE(std::isnan(values.back()));
        }
      }
    }
  }
}

TEST(Softmax, DoesNotDependOnTheNumberOfThreads) {
  const Tensor x = random_tensor({50, 3001}, DType::f32);
  const int before = num_threads();
  set_num_threads(1);
  const std::vector<float> one = softmax(x).to_vector<float>();
  set_num_threads(3);
  EXPECT_EQ(softmax(x).to_vector<float>(), one);
  set_num_threads(before);
}

TEST(Softmax, ErrorsSayWhatIsWrong) {
  const Tensor x = zeros({2, 3});
  EXPECT_THROW(softmax(x, 2), ShapeError);
  EXPECT_THROW(softmax(scalar(1), 0), ShapeError);
  EXPECT_THROW(log_softmax(Tensor(), 0), ShapeError);
  EXPECT_THROW(softmax(zeros({2}, DType::i64), 0), DTypeError);
  EXPECT_THROW(softmax_backward(zeros({3, 2}), x, 0), ShapeError);
  EXPECT_THROW(softmax_backward(Tensor(), x, 0), ShapeError);
  EXPECT_THROW(log_softmax_backward(zeros({2, 3}, DType::bf16), x, 0), DTypeError);
  try {
    softmax(x, -3);
    FAIL();
  } catch (const ShapeError& error) {
    EXPECT_STREQ(error.what(), "softmax: axis -3 out of range for rank 2");
  }
}

}  // namespace
}  // namespace weft
