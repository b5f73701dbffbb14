// Every mechanism on the GPU: training and decoding as on the CPU.
#include "weft/nn/sequence_mixer.h"

#include "mixer_cases.h"

namespace weft::attention {
namespace {

using autograd::Variable;
using testing::all_mixer_cases;
using testing::kGpu;
using testing::kWidth;
using testing::make_mixer;
using testing::name_of;
using testing::random_tensor;
using testing::relative_error;

class MixerOnGpu : public testing::MixerOnGpu {};
INSTANTIATE_TEST_SUITE_P(All, MixerOnGpu, ::testing::ValuesIn(all_mixer_cases()),
                         [](const auto& info) { return name_of(info.param); });

/// The output of a mixer and the gradients of its input and its parameters.
std::vector<Tensor> train(nn::SequenceMixer& mixer, const Tensor& x, const Tensor& dy) {
  const Variable input(x, /*requires_grad=*/true);
  const Variable y = mixer.forward(input, {});
  y.backward(dy);
  std::vector<Tensor> results{y.data(), input.grad()};
  for (const Variable& parameter : mixer.parameters()) {
    EXPECT_TRUE(parameter.grad().defined());
    results.push_back(parameter.grad());
  }
  return results;
}

std::string name_of_result(const nn::SequenceMixer& mixer, size_t i) {
  return i == 0 ? "y" : i == 1 ? "dx" : "the gradient of " + mixer.named_parameters()[i - 2].name;
}

TEST_P(MixerOnGpu, TrainsAsOnTheCpu) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    SCOPED_TRACE(to_string(dtype));
    const auto mixer = make_mixer(GetParam()), on = make_mixer(GetParam());
    mixer->to(dtype);
    on->to(dtype);
    on->to(kGpu);
    const Tensor x = random_tensor({2, 150, kWidth}, dtype, 1);
    const Tensor dy = random_tensor({2, 150, kWidth}, dtype, 2);
    const std::vector<Tensor> expected = train(*mixer, x, dy);
    const std::vector<Tensor> results = train(*on, x.to(kGpu), dy.to(kGpu));
    ASSERT_EQ(results.size(), expected.size());
    for (size_t i = 0; i < results.size(); ++i)
      EXPECT_LE(relative_error(results[i], expected[i]), dtype == DType::f64 ? 1e-10 : 1e-4)
          << name_of_result(*mixer, i);
  }
}

TEST_P(MixerOnGpu, ErrsInBf16AtMostTwiceAsMuchAsTheCpu) {
  for (const std::string& option : GetParam().options) {
    if (option == "select-count=3") GTEST_SKIP() << "rounding changes which blocks are chosen";
  }
  const auto exact = make_mixer(GetParam()), rounded = make_mixer(GetParam());
  const auto on = make_mixer(GetParam());
  exact->to(DType::f64);
  on->to(kGpu);
  const Tensor x = random_tensor({2, 150, kWidth}, DType::bf16, 1);
  const Tensor dy = random_tensor({2, 150, kWidth}, DType::bf16, 2);
  const std::vector<Tensor> expected = train(*exact, x.to(DType::f64), dy.to(DType::f64));
  const std::vector<Tensor> on_cpu = train(*rounded, x, dy);
  const std::vector<Tensor> results = train(*on, x.to(kGpu), dy.to(kGpu));
  ASSERT_EQ(results.size(), expected.size());
  for (size_t i = 0; i < results.size(); ++i) {
    const double naive = relative_error(on_cpu[i], expected[i]);
    EXPECT_LE(naive, 0.05) << name_of_result(*on, i);
    EXPECT_LE(relative_error(results[i], expected[i]), 2 * naive + 1e-4) << name_of_result(*on, i);
  }
}

TEST_P(MixerOnGpu, DecodesAsItScores) {
  const autograd::NoGradGuard no_grad;
  const auto mixer = make_mixer(GetParam());
  mixer->to(kGpu);
  const int64_t length = 90;
  const Tensor x = random_tensor({2, length, kWidth}, DType::f32, 1).to(kGpu);
  const Tensor whole = mixer->forward(Variable(x), {}).data();
  for (const int64_t first : {0, 1, 33, 64}) {
    const auto cache = mixer->make_cache(2, length, DType::f32, kGpu);
    const auto expect_rows = [&](int64_t begin, int64_t end) {
      const Variable rows(x.slice(1, begin, end));
      const Variable y =
          end - begin == 1 ? mixer->step(rows, *cache) : mixer->prefill(rows, *cache);
      EXPECT_LE(relative_error(y.data(), whole.slice(1, begin, end)), 1e-4)
          << begin << ".." << end << " after a prefill of " << first;
    };
    if (first > 0) expect_rows(0, first);
    int64_t t = first;
    for (; t < std::min(first + 20, length); ++t) expect_rows(t, t + 1);
    if (t < length) expect_rows(t, length);
  }
}

}  // namespace
}  // namespace weft::attention
