// Native sparse attention in random shapes: every rule of its options at once.
#include <random>

#include "weft/autograd/grad_check.h"

#include "nsa_test_data.h"

namespace weft::attention {
namespace {

using autograd::Variable;
using testing::expect_agrees;
using testing::largest_difference;
using testing::make_nsa;
using testing::random_tensor;

class Chooser {
 public:
  explicit Chooser(uint64_t seed) : engine_(seed) {}
  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  bool one_in(int64_t n) { return between(1, n) == 1; }

 private:
  std::mt19937_64 engine_;
};

NsaOptions random_options(Chooser& choose) {
  NsaOptions o;
  o.d_model = choose.between(3, 20);
  o.n_kv_heads = choose.between(1, 3);
  o.n_heads = o.n_kv_heads * choose.between(1, 3);
  o.head_dim = 2 * choose.between(1, 9);
  o.value_dim = choose.between(1, 18);
  o.stride = choose.between(1, 6);
  o.block = o.stride * choose.between(1, 4);
  o.select_block = o.block + o.stride * choose.between(0, 4);
  o.initial = choose.between(0, 2);
  o.local = choose.between(1, 3);
  o.select_count = o.initial + o.local + choose.between(0, 3);
  o.window = choose.between(1, 40);
  o.compressor = static_cast<CompressorKind>(choose.between(0, 3));
  o.compressor_hidden = choose.between(0, 6);
  o.compressor_residual = o.compressor == CompressorKind::mlp && choose.one_in(2);
  o.shared_kv = choose.one_in(3);
  o.compressed_rope = static_cast<CompressedRope>(choose.between(0, 4));
  o.gate_hidden = choose.one_in(3) ? choose.between(1, 6) : 0;
  if (choose.one_in(4)) {
    const int64_t mask = choose.between(1, 7);
    o.branches = {(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0};
  }
  if (choose.one_in(6)) o.rope_theta = 0;
  o.init_std = 0.3;
  return o;
}

class SlowNsaRandom : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Seeds, SlowNsaRandom, ::testing::Range(0, 12));

TEST_P(SlowNsaRandom, AgreesWithItsDefinitionAndDecodes) {
  for (int i = 0; i < 50; ++i) {
    const int seed = GetParam() * 50 + i;
    Chooser choose(static_cast<uint64_t>(seed) + 1);
    const NsaOptions options = random_options(choose);
    const auto layer = make_nsa(options);
    const int64_t batch = choose.between(1, 2), length = choose.between(1, 90);
    SCOPED_TRACE(::testing::Message() << "seed " << seed << ": " << layer->describe()
                                      << " B=" << batch << " T=" << length);
    const DType dtype = choose.one_in(3) ? DType::f32 : DType::f64;
    const Tensor x =
        random_tensor({batch, length, options.d_model}, dtype, static_cast<uint64_t>(seed));
    const double gap = expect_agrees(*layer, x, choose.between(0, 1) * choose.between(0, 500));

    // Decoding in random pieces.
    if (dtype == DType::f32 && gap < 1e-3) continue;
    const double tolerance = dtype == DType::f64 ? 1e-11 : 1e-4;
    const autograd::NoGradGuard no_grad;
    const Tensor whole = layer->forward(Variable(x), {}).data();
    const auto cache = layer->make_cache(batch, length + choose.between(0, 9), dtype, kCpu);
    for (int64_t t = 0; t < length;) {
      const int64_t end =
          std::min(length, t + (choose.one_in(2) ? 1 : choose.between(1, 2 * options.window)));
      const Tensor y = layer->prefill(Variable(x.slice(1, t, end)), *cache).data();
      EXPECT_LE(largest_difference(y, whole.slice(1, t, end)), tolerance) << t << ".." << end;
      t = end;
    }
  }
}

TEST(SlowNsaGradients, AgreeWithFiniteDifferencesOfFreeLists) {
  int checked = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    Chooser choose(seed);
    NsaOptions options = random_options(choose);
    options.branches = {true, true, true};
    const auto layer = make_nsa(options);
    layer->to(DType::f64);
    const Tensor x = random_tensor({1, choose.between(20, 50), options.d_model}, DType::f64, seed);
    reference::Parameters parameters;
    for (const auto& [name, parameter] : layer->named_parameters())
      parameters[name] = parameter.data();
    // Lists must not change within the differences.
    if (reference::nsa_layer(layer->options(), parameters, x, zeros_like(x)).gap < 1e-3) continue;
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
