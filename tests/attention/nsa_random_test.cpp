// Native sparse attention in random shapes: every rule of its options at once.
#include "weft/autograd/grad_check.h"

#include "nsa_test_data.h"

namespace weft::attention {
namespace {

using autograd::Variable;
using testing::compare_with_definition;
using testing::Draw;
using testing::make_nsa;
using testing::random_tensor;

class SlowNsaRandom : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Seeds, SlowNsaRandom, ::testing::Range(0, 12));

TEST_P(SlowNsaRandom, AgreesWithItsDefinitionAndDecodes) {
  testing::ResultChecks checks;
  for (int i = 0; i < 50; ++i) {
    const int seed = GetParam() * 50 + i;
    Draw draw(static_cast<uint64_t>(seed) + 1);
    const NsaOptions options = testing::random_nsa(draw);
    const auto layer = make_nsa(options);
    const int64_t batch = draw(1, 2), length = draw(1, 90);
    SCOPED_TRACE(::testing::Message() << "seed " << seed << ": " << layer->describe()
                                      << " B=" << batch << " T=" << length);
    const DType dtype = draw.of<DType>({DType::f64, DType::f64, DType::f32, DType::bf16});
    const Tensor x =
        random_tensor({batch, length, options.d_model}, dtype, static_cast<uint64_t>(seed));
    const double gap = compare_with_definition(*layer, x, checks[dtype], draw(0, 1) * draw(0, 500));
    if (dtype == DType::f64 || (dtype == DType::f32 && gap > 1e-3))
      testing::expect_decodes_in_pieces(*layer, x, draw, 2 * options.window);
  }
}

TEST(SlowNsaGradients, AgreeWithFiniteDifferencesOfFreeLists) {
  int checked = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    Draw draw(seed);
    NsaOptions options = testing::random_nsa(draw);
    options.branches = {true, true, true};
    const auto layer = make_nsa(options);
    layer->to(DType::f64);
    const Tensor x = random_tensor({1, draw(20, 50), options.d_model}, DType::f64, seed);
    // Lists must not change within the differences.
    if (reference::nsa_layer(layer->options(), testing::parameters_of(*layer), x, zeros_like(x))
            .gap < 1e-3)
      continue;
    ++checked;
    std::vector<Variable> inputs = {Variable(x, true)};
    for (const Variable& parameter : layer->parameters()) inputs.push_back(parameter);
    const auto result = autograd::grad_check(
        [&](const std::vector<Variable>& in) { return layer->forward(in[0], {}); }, inputs,
        {.max_elements = 6});
    EXPECT_TRUE(result) << seed << ": " << layer->describe() << ": " << result.message;
  }
  EXPECT_GE(checked, 10);
}

}  // namespace
}  // namespace weft::attention
