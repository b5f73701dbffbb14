#include "weft/tensor/ops/next_token.h"

#include <cmath>
#include <limits>

#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft {
namespace {

constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

TokenState state_of(int64_t batch, int64_t position, int64_t history) {
  TokenState state;
  state.tokens = zeros({batch}, DType::i64);
  state.position = from_vector<int64_t>({position, 0}, {2});
  if (history > 0) state.history = full({batch, history}, -7, DType::i64);
  return state;
}

TEST(NextToken, RowsAreThoseOfTheTableConverted) {
  for (const DType from : kFloating) {
    for (const DType to : kFloating) {
      const Tensor table = test::random_tensor({9, 5}, from, 1);
      const Tensor tokens = from_vector<int64_t>({3, 0, 8, 3}, {4});
      const Tensor rows = token_rows(table, tokens, to);
      ASSERT_EQ(rows.dtype(), to);
      const std::vector<double> all = table.to(to).to_vector<double>();
      std::vector<double> expected;
      for (const size_t token : {3, 0, 8, 3})
        for (size_t e = 0; e < 5; ++e) expected.push_back(all[token * 5 + e]);
      EXPECT_EQ(rows.to_vector<double>(), expected);
    }
  }
  const Tensor outside =
      token_rows(ones({2, 3}), from_vector<int64_t>({-1, 1, 2}, {3}), DType::f32);
  EXPECT_EQ(outside.to_vector<int>(), (std::vector<int>{0, 0, 0, 1, 1, 1, 0, 0, 0}));
}

TEST(NextToken, TakesTheFirstOfTheLargestFiniteOnes) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  for (const DType dtype : kFloating) {
    const Tensor logits = from_vector<double>({1, 3, -2, 3, 9,        //
                                               kInf, NAN, -5, -4, 0,  //
                                               NAN, -kInf, kInf, NAN, 1},
                                              {3, 5})
                              .to(dtype);
    TokenState state = state_of(3, 6, 8);
    take_largest(logits, 4, state);
    EXPECT_EQ(state.tokens.to_vector<int64_t>(), (std::vector<int64_t>{1, 3, -1}));
    EXPECT_EQ(state.position.to_vector<int64_t>(), (std::vector<int64_t>{7, 0}));
    take_largest(logits, 5, state);
    EXPECT_EQ(state.tokens.to_vector<int64_t>(), (std::vector<int64_t>{4, 4, 4}));
    EXPECT_EQ(state.history.slice(1, 5, 8).to_vector<int64_t>(),
              (std::vector<int64_t>{-7, 1, 4, -7, 3, 4, -7, -1, 4}));
    take_largest(logits, 5, state);  // beyond the history
    EXPECT_EQ(state.position.to_vector<int64_t>(), (std::vector<int64_t>{9, 0}));
  }
  TokenState state = state_of(1, 0, 0);
  take_largest(full({1, 1}, 2), 1, state);
  EXPECT_EQ(state.tokens.item<int64_t>(), 0);
}

TEST(NextToken, RefusesWhatDoesNotFit) {
  EXPECT_THROW(token_rows(ones({3}), zeros({1}, DType::i64), DType::f32), ShapeError);
  EXPECT_THROW(token_rows(ones({3, 2}), zeros({1, 1}, DType::i64), DType::f32), ShapeError);
  EXPECT_THROW(token_rows(ones({3, 2}), zeros({1}, DType::i32), DType::f32), DTypeError);
  EXPECT_THROW(token_rows(ones({3, 2}), zeros({1}, DType::i64), DType::i64), DTypeError);
  const Tensor logits = ones({2, 4});
  TokenState state = state_of(2, 0, 3);
  EXPECT_THROW(take_largest(ones({4}), 1, state), ShapeError);
  EXPECT_THROW(take_largest(logits, 0, state), ShapeError);
  EXPECT_THROW(take_largest(logits, 5, state), ShapeError);
  EXPECT_THROW(take_largest(ones({2, 4}, DType::i64), 4, state), DTypeError);
  EXPECT_THROW(take_largest(ones({3, 4}), 4, state), ShapeError);
  state.position = zeros({1}, DType::i64);
  EXPECT_THROW(take_largest(logits, 4, state), ShapeError);
  state = state_of(2, 0, 3);
  state.history = zeros({3}, DType::i64);
  EXPECT_THROW(take_largest(logits, 4, state), ShapeError);
}

}  // namespace
}  // namespace weft
