// Every mechanism on the GPU: training and decoding as on the CPU.
#include "weft/nn/decoder.h"
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

TEST_P(MixerOnGpu, TrainsAsOnTheCpu) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    // Rounding changes what is chosen.
    const auto chooses = [](const std::string& option) {
      return option.starts_with("select-count");
    };
    const auto& options = GetParam().options;
    if (dtype == DType::bf16 && std::any_of(options.begin(), options.end(), chooses)) continue;
    SCOPED_TRACE(to_string(dtype));
    const auto mixer = make_mixer(GetParam()), on = make_mixer(GetParam());
    mixer->to(dtype == DType::bf16 ? DType::f32 : dtype);
    on->to(dtype);
    on->to(kGpu);
    const Tensor x = random_tensor({2, 150, kWidth}, dtype, 1);
    const Tensor dy = random_tensor({2, 150, kWidth}, dtype, 2);
    const DType reference = mixer->parameters().front().dtype();
    const Variable input(x.to(reference), true), input_on(x.to(kGpu), true);
    const Variable y = mixer->forward(input, {}), y_on = on->forward(input_on, {});
    const double tolerance = dtype == DType::f64 ? 1e-10 : dtype == DType::f32 ? 1e-4 : 0.1;
    EXPECT_LE(relative_error(y_on.data(), y.data()), tolerance);
    y.backward(dy.to(reference));
    y_on.backward(dy.to(kGpu));
    EXPECT_LE(relative_error(input_on.grad(), input.grad()), tolerance);
    const auto parameters = mixer->named_parameters(), parameters_on = on->named_parameters();
    ASSERT_EQ(parameters.size(), parameters_on.size());
    for (size_t i = 0; i < parameters.size(); ++i) {
      ASSERT_TRUE(parameters_on[i].parameter.grad().defined()) << parameters[i].name;
      EXPECT_LE(relative_error(parameters_on[i].parameter.grad(), parameters[i].parameter.grad()),
                tolerance)
          << parameters[i].name;
    }
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
