#include "kernels/largest_values.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "selection_test_data.h"

namespace weft::attention {
namespace {

using testing::Draw;

/// Indices from `first` on of the `wanted` largest of the values that may be taken, of equal ones
/// the first.
template <class A>
std::vector<int32_t> expected_of(const std::vector<A>& values, int64_t wanted, int64_t first) {
  std::vector<int32_t> order;
  for (size_t j = 0; j < values.size(); ++j) {
    if (values[j] >= 0) order.push_back(static_cast<int32_t>(j));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  order.resize(static_cast<size_t>(wanted));
  std::sort(order.begin(), order.end());
  for (int32_t& index : order) index += static_cast<int32_t>(first);
  return order;
}

/// Values of every size, often equal, with some that must not be taken behind those that may.
template <class A>
std::vector<A> random_values(Draw& draw, int64_t count, int64_t& may_be_taken) {
  const int64_t kind = draw(0, 3);
  std::vector<A> values(static_cast<size_t>(count));
  for (A& value : values) {
    const double fraction = static_cast<double>(draw(0, 1 << 30)) / (1 << 30);
    if (kind == 0) value = static_cast<A>(draw(0, 2));
    if (kind == 1) value = static_cast<A>(fraction);
    if (kind == 2) value = static_cast<A>(std::pow(10.0, 60 * fraction - 44));  // some denormal
    if (kind == 3) value = draw(0, 9) == 0 ? std::numeric_limits<A>::infinity() : A(0);
  }
  may_be_taken = draw(1, count);
  std::fill(values.begin() + may_be_taken, values.end(), A(-1));
  return values;
}

template <class A>
void expect_largest_of_lanes(Draw& draw) {
  using Largest = LargestValues<A>;
  constexpr int64_t kLanes = Largest::kLanes;
  const int64_t count = draw(1, 150), first = draw(0, 9);
  std::vector<std::vector<A>> lists;
  std::vector<A> values(static_cast<size_t>(count * kLanes));
  int64_t wanted[kLanes];
  std::vector<std::vector<int32_t>> found(kLanes, std::vector<int32_t>(150, -7));
  int32_t* cursors[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    int64_t may_be_taken = 0;
    lists.push_back(random_values<A>(draw, count, may_be_taken));
    for (int64_t j = 0; j < count; ++j) values[j * kLanes + lane] = lists[lane][j];
    wanted[lane] = lane == 1 ? 0 : draw(1, may_be_taken);
    cursors[lane] = lane == 1 ? nullptr : found[lane].data();
  }
  Largest largest;
  largest.find(Largest::Lists::one_per_lane, values.data(), count, wanted);
  largest.write_lanes(values.data(), count, first, cursors);
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const int64_t length = lane == 1 ? 0 : cursors[lane] - found[lane].data();
    ASSERT_EQ(length, lane == 1 ? 0 : wanted[lane]);
    found[lane].resize(static_cast<size_t>(length));
    if (lane != 1) {
      ASSERT_EQ(found[lane], expected_of(lists[lane], wanted[lane], first));
    }
  }
}

template <class A>
void expect_largest_along_lanes(Draw& draw) {
  using Largest = LargestValues<A>;
  int64_t may_be_taken = 0;
  std::vector<A> values = random_values<A>(draw, draw(1, 300), may_be_taken);
  const auto count = static_cast<int64_t>(values.size());
  const int64_t wanted = draw(1, may_be_taken);
  const std::vector<int32_t> expected = expected_of(values, wanted, 5);
  while (values.size() % Largest::kLanes != 0) values.push_back(A(-1));
  std::vector<int32_t> found(values.size());
  Largest largest;
  largest.find(Largest::Lists::along_lanes, values.data(),
               static_cast<int64_t>(values.size()) / Largest::kLanes, &wanted);
  const int32_t* const end = largest.write(0, values.data(), count, 5, found.data());
  ASSERT_EQ(end - found.data(), wanted);
  found.resize(static_cast<size_t>(wanted));
  ASSERT_EQ(found, expected);
}

TEST(LargestValues, OfEveryLaneAreThoseOfASort) {
  Draw draw(41);
  for (int i = 0; i < 1000; ++i) {
    expect_largest_of_lanes<float>(draw);
    expect_largest_of_lanes<double>(draw);
    if (HasFatalFailure()) return;
  }
}

TEST(LargestValues, AlongLanesAreThoseOfASort) {
  Draw draw(42);
  for (int i = 0; i < 3000; ++i) {
    expect_largest_along_lanes<float>(draw);
    expect_largest_along_lanes<double>(draw);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace weft::attention
