// The global layer of alternating sparse attention in random shapes: every rule of its options at
// once.
#include "asa_test_data.h"

namespace weft::attention {
namespace {

using testing::Draw;
using testing::lists_of;
using testing::make_asa;
using testing::random_tensor;

class SlowAsaRandom : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Seeds, SlowAsaRandom, ::testing::Range(0, 8));

TEST_P(SlowAsaRandom, AgreesWithItsDefinitionAndDecodes) {
  testing::ResultChecks checks;
  for (int i = 0; i < 100; ++i) {
    const auto seed = static_cast<uint64_t>(100 * GetParam() + i + 1);
    Draw draw(seed);
    const AsaGlobalOptions options = testing::random_asa(draw);
    const int64_t batch = draw(1, 2), length = draw(1, 45);
    const DType dtype = draw.of<DType>({DType::f64, DType::f64, DType::f32, DType::bf16});
    const auto layer = make_asa(options, seed);
    SCOPED_TRACE(::testing::Message() << "seed " << seed << ": " << layer->describe() << " "
                                      << name_of(options.compressor) << " B " << batch << " T "
                                      << length << " " << to_string(dtype));
    const Tensor x = random_tensor({batch, length, options.latent.d_model}, dtype, seed);
    testing::compare_with_oracle(*layer, x, testing::oracle_of(*layer), checks[dtype]);
    double gap = 1;
    if (options.branches != AsaBranches::compressed) {
      const auto expected = testing::expected_lists(*layer, x);
      for (const double one : expected.gap.to_vector<double>()) gap = std::min(gap, one);
      // Rounding chooses where scores are as good as alike.
      if (gap > (dtype == DType::f64 ? 1e-9 : dtype == DType::f32 ? 1e-4 : 0.1)) {
        EXPECT_EQ(lists_of(layer->selection(autograd::Variable(x))), lists_of(expected.selection));
      }
    }
    if (dtype == DType::f64 || (dtype == DType::f32 && gap > 1e-3))
      testing::expect_decodes_in_pieces(*layer, x, draw);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace weft::attention
