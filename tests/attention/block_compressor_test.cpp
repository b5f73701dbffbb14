#include "weft/attention/block_compressor.h"

#include <gmock/gmock.h>

#include "weft/autograd/grad_check.h"
#include "weft/tensor/parallel.h"

#include "attention_test_data.h"

namespace weft::attention {
namespace {

using autograd::grad_check;
using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::root_mean_square;
using testing::same_bits;
using testing::scattered;

std::unique_ptr<BlockCompressor> make(BlockCompressorOptions options, uint64_t seed = 3) {
  Generator generator(seed);
  options.init_std = 0.3;
  return std::make_unique<BlockCompressor>(options, generator);
}

std::vector<double> values_of(const BlockCompressor& module, const char* name) {
  for (const auto& [known, parameter] : module.named_parameters()) {
    if (known == name) return parameter.data().to_vector<double>();
  }
  return {};
}

/// The definition, element by element.
Tensor reference(const BlockCompressor& module, const Tensor& x) {
  const BlockCompressorOptions& o = module.options();
  const int64_t l = o.blocks.block, d = o.blocks.stride, D = o.dim, H = o.heads, M = o.hidden;
  const int64_t blocks = o.blocks.count(x.size(1)), K = l * D;
  const std::vector<double> in = x.to_vector<double>();
  const auto positions = values_of(module, "positions"), weights = values_of(module, "weights"),
             proj = values_of(module, "proj.weight"), up = values_of(module, "up.weight"),
             up_bias = values_of(module, "up.bias"), down = values_of(module, "down.weight"),
             down_bias = values_of(module, "down.bias");
  std::vector<double> y(static_cast<size_t>(x.size(0) * blocks * H * D));
  for (int64_t b = 0; b < x.size(0); ++b) {
    for (int64_t i = 0; i < blocks; ++i) {
      for (int64_t h = 0; h < H; ++h) {
        const int64_t r = o.weights_per_head ? h : 0;
        std::vector<double> z(static_cast<size_t>(K)), mean(static_cast<size_t>(D));
        for (int64_t m = 0; m < l; ++m) {
          for (int64_t c = 0; c < D; ++c) {
            const double value = in[((b * x.size(1) + i * d + m) * H + h) * D + c];
            mean[c] += value / static_cast<double>(l);
            z[m * D + c] = value + (positions.empty() ? 0 : positions[(h * l + m) * D + c]);
          }
        }
        double* const out = y.data() + ((b * blocks + i) * H + h) * D;
        for (int64_t c = 0; c < D; ++c) {
          switch (o.kind) {
            case CompressorKind::mean:
              out[c] = mean[c];
              break;
            case CompressorKind::weighted:
              for (int64_t m = 0; m < l; ++m) out[c] += weights[r * l + m] * z[m * D + c];
              break;
            case CompressorKind::linear:
              for (int64_t k = 0; k < K; ++k) out[c] += proj[(r * D + c) * K + k] * z[k];
              break;
            case CompressorKind::mlp:
              out[c] = down_bias[r * D + c] + (o.residual ? mean[c] : 0);
              for (int64_t j = 0; j < M; ++j) {
                double u = up_bias[r * M + j];
                for (int64_t k = 0; k < K; ++k) u += up[(r * M + j) * K + k] * z[k];
                out[c] += down[(r * D + c) * M + j] * u / (1 + std::exp(-u));
              }
              break;
          }
        }
      }
    }
  }
  return from_vector(y, {x.size(0), blocks, H, D});
}

std::vector<BlockCompressorOptions> all_forms(BlockShape blocks, int64_t heads, int64_t dim) {
  std::vector<BlockCompressorOptions> forms;
  for (const auto kind : {CompressorKind::mean, CompressorKind::weighted, CompressorKind::linear,
                          CompressorKind::mlp}) {
    for (const bool per_head : {false, true}) {
      for (const bool positions : {true, false}) {
        forms.push_back({.kind = kind,
                         .blocks = blocks,
                         .heads = heads,
                         .dim = dim,
                         .weights_per_head = per_head,
                         .positions = positions,
                         .hidden = 5});
      }
    }
  }
  forms.push_back({.kind = CompressorKind::mlp,
                   .blocks = blocks,
                   .heads = heads,
                   .dim = dim,
                   .hidden = 5,
                   .residual = true});
  return forms;
}

/// Weights that are nowhere 0 or all equal.
void disturb(BlockCompressor& module) {
  uint64_t seed = 100;
  for (Variable parameter : module.parameters())
    parameter.mutable_data().copy_(random_tensor(parameter.shape(), DType::f64, ++seed, 0.4));
}

TEST(BlockShape, CountsCompleteBlocks) {
  const BlockShape shape{.block = 4, .stride = 2};
  const int64_t expected[] = {0, 0, 0, 0, 1, 1, 2, 2, 3};
  for (int64_t tokens = 0; tokens < 9; ++tokens) EXPECT_EQ(shape.count(tokens), expected[tokens]);
  EXPECT_EQ((BlockShape{.block = 1, .stride = 1}.count(7)), 7);
}

TEST(BlockCompressor, ComputesItsDefinitionInEveryType) {
  const BlockShape shapes[] = {{4, 2}, {6, 2}, {5, 5}, {1, 1}, {32, 16}};
  for (const BlockShape& blocks : shapes) {
    for (const int64_t dim : {1, 6, 67}) {
      for (const BlockCompressorOptions& form : all_forms(blocks, 3, dim)) {
        const auto module = make(form);
        disturb(*module);
        for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
          if (dtype == DType::f64) module->to(DType::f64);
          if (dtype == DType::f32) module->to(DType::f32);  // and stays so: masters
          for (const int64_t tokens : {0, 3, 4, 17, 48}) {
            const Tensor x = random_tensor({2, tokens, 3, dim}, dtype, 1);
            const Tensor expected = reference(*module, x);
            const Tensor y = module->forward(Variable(x)).data();
            EXPECT_EQ(y.dtype(), dtype);
            const double tolerance = dtype == DType::f64    ? 1e-12
                                     : dtype == DType::f32  ? 1e-5
                                     : dtype == DType::bf16 ? 2e-2
                                                            : 3e-3;
            ASSERT_LE(largest_difference(y, expected),
                      tolerance * std::max(1.0, root_mean_square(expected)) * 3)
                << module->describe() << " tokens " << tokens << " " << to_string(dtype);
          }
        }
      }
    }
  }
}

TEST(BlockCompressor, ReadsAnyLayout) {
  for (const BlockCompressorOptions& form : all_forms({4, 2}, 2, 6)) {
    const auto module = make(form);
    const Tensor x = random_tensor({2, 13, 2, 6}, DType::f32, 1);
    const Tensor dense = module->forward(Variable(x)).data();
    EXPECT_TRUE(same_bits(module->forward(Variable(scattered(x))).data(), dense));
    const Tensor turned = x.transpose(1, 3).contiguous().transpose(1, 3);  // no dense rows
    EXPECT_TRUE(same_bits(module->forward(Variable(turned)).data(), dense));
  }
}

TEST(BlockCompressor, GradientsAgreeWithFiniteDifferences) {
  for (const BlockShape& blocks : {BlockShape{4, 2}, BlockShape{3, 3}, BlockShape{6, 2}}) {
    for (const BlockCompressorOptions& form : all_forms(blocks, 2, 5)) {
      for (const int64_t tokens : {2, 13}) {
        const auto module = make(form);
        disturb(*module);
        module->to(DType::f64);
        std::vector<Variable> inputs = {
            Variable(random_tensor({2, tokens, 2, 5}, DType::f64, 1), true)};
        for (const Variable& parameter : module->parameters()) inputs.push_back(parameter);
        const auto result =
            grad_check([&](const std::vector<Variable>& in) { return module->forward(in[0]); },
                       inputs, {.max_elements = 60});
        EXPECT_TRUE(result) << module->describe() << " tokens " << tokens << ": " << result.message;
      }
    }
  }
}

TEST(BlockCompressor, HalfTypesGiveGradientsCloseToExactOnes) {
  for (const BlockCompressorOptions& form : all_forms({8, 4}, 2, 24)) {
    const auto exact = make(form), half = make(form);
    disturb(*exact);
    disturb(*half);
    exact->to(DType::f64);
    for (const DType dtype : {DType::bf16, DType::f16}) {
      const Tensor x = random_tensor({2, 90, 2, 24}, dtype, 1);
      const Variable a(x.to(DType::f64), true), b(x, true);
      const Variable y = exact->forward(a), z = half->forward(b);
      const Tensor dy = random_tensor(y.shape(), dtype, 2);
      exact->zero_grad();
      half->zero_grad();
      y.backward(dy.to(DType::f64));
      z.backward(dy);
      const double unit = dtype == DType::bf16 ? 0x1p-8 : 0x1p-10;
      EXPECT_LE(largest_difference(b.grad(), a.grad()),
                8 * unit * (1 + 3 * root_mean_square(a.grad())))
          << half->describe();
      const auto want = exact->parameters(), got = half->parameters();
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_EQ(got[i].grad().dtype(), DType::f32);
        EXPECT_LE(largest_difference(got[i].grad(), want[i].grad()),
                  8 * unit * (1 + 3 * root_mean_square(want[i].grad())))
            << half->describe() << " parameter " << i;
      }
    }
  }
}

TEST(BlockCompressor, SameBitsForAnyNumberOfThreads) {
  for (const BlockCompressorOptions& form : all_forms({8, 4}, 2, 40)) {
    std::vector<Tensor> first;
    for (const int threads : {1, 2, 3}) {
      const int before = num_threads();
      set_num_threads(threads);
      const auto module = make(form);
      const Variable x(random_tensor({2, 700, 2, 40}, DType::f32, 1), true);
      const Variable y = module->forward(x);
      y.backward(random_tensor(y.shape(), DType::f32, 2));
      set_num_threads(before);
      std::vector<Tensor> results = {y.data(), x.grad()};
      // Products with weights may split their sums by threads; what is summed here may not.
      if (form.kind == CompressorKind::weighted) {
        for (const Variable& parameter : module->parameters()) results.push_back(parameter.grad());
      }
      if (form.kind == CompressorKind::linear || form.kind == CompressorKind::mlp) break;
      if (first.empty()) first = results;
      for (size_t i = 0; i < results.size(); ++i) EXPECT_TRUE(same_bits(results[i], first[i]));
    }
  }
}

TEST(BlockCompressor, BlocksDependOnTheirOwnTokensAlone) {
  for (const BlockCompressorOptions& form : all_forms({6, 2}, 2, 5)) {
    const auto module = make(form);
    disturb(*module);
    const Tensor x = random_tensor({1, 20, 2, 5}, DType::f32, 1);
    const Tensor before = module->forward(Variable(x)).data();
    for (int64_t s = 0; s < 20; ++s) {
      Tensor changed = x.clone();
      changed.slice(1, s, s + 1).fill_(3);
      const Tensor after = module->forward(Variable(changed)).data();
      for (int64_t i = 0; i < before.size(1); ++i) {
        const bool inside = 2 * i <= s && s < 2 * i + 6;
        EXPECT_EQ(same_bits(after.select(1, i), before.select(1, i)), !inside) << s << " " << i;
      }
    }
  }
}

TEST(BlockCompressor, ResidualStartsAsTheMean) {
  const auto mlp =
      make({.kind = CompressorKind::mlp, .blocks = {4, 4}, .heads = 2, .dim = 6, .residual = true});
  const auto mean = make({.blocks = {4, 4}, .heads = 2, .dim = 6});
  const Variable x(random_tensor({1, 9, 2, 6}, DType::f32, 1));
  EXPECT_TRUE(same_bits(mlp->forward(x).data(), mean->forward(x).data()));
}

TEST(BlockCompressor, NamesAndSizesOfParameters) {
  const auto names = [](const BlockCompressorOptions& options) {
    std::vector<std::string> names;
    for (const auto& [name, parameter] : make(options)->named_parameters())
      names.push_back(name + " " + to_string(parameter.shape()));
    return names;
  };
  using ::testing::ElementsAre;
  BlockCompressorOptions options{.blocks = {8, 4}, .heads = 3, .dim = 6, .weights_per_head = true};
  EXPECT_THAT(names(options), ElementsAre());
  options.kind = CompressorKind::weighted;
  EXPECT_THAT(names(options), ElementsAre("positions [3, 8, 6]", "weights [3, 8]"));
  options.kind = CompressorKind::linear;
  EXPECT_THAT(names(options), ElementsAre("positions [3, 8, 6]", "proj.weight [18, 48]"));
  options.kind = CompressorKind::mlp;
  options.weights_per_head = false;
  EXPECT_THAT(names(options), ElementsAre("positions [3, 8, 6]", "up.weight [12, 48]",
                                          "up.bias [12]", "down.weight [6, 12]", "down.bias [6]"));
}

TEST(BlockCompressor, RefusesWhatDoesNotFit) {
  const auto message = [](const BlockCompressorOptions& options) {
    return message_of<ConfigError>([&] { make(options); });
  };
  EXPECT_EQ(message({.blocks = {8, 3}}), "compressor: block (8) must be a multiple of stride (3)");
  EXPECT_EQ(message({.blocks = {4, 8}}),
            "blocks: block must be at least 1 and stride 1 to block, got 4 and 8");
  message({.blocks = {0, 0}});
  message({.blocks = {8, 0}});
  EXPECT_EQ(message({.heads = 0}), "compressor: heads and dim must be at least 1, got 0 and 64");
  message({.dim = 0});
  message({.hidden = -1});
  EXPECT_EQ(message({.residual = true}), "compressor: residual needs the kind mlp, got mean");
  EXPECT_EQ(message_of<ConfigError>([] { parse_compressor_kind("max"); }),
            "compressor: must be one of mean, weighted, linear, mlp, got \"max\"");
  for (const std::string& kind : compressor_kinds())
    EXPECT_EQ(name_of(parse_compressor_kind(kind)), kind);

  const auto module = make({.heads = 2, .dim = 4});
  EXPECT_EQ(message_of<ShapeError>([&] {
              module->forward(Variable(zeros({1, 3, 2, 5})));
            }),
            "compressor: x must be [B, T, 2, 4], got [1, 3, 2, 5] f32 cpu");
  const Tensor x = zeros({1, 8, 2, 4});
  message_of<DTypeError>([&] { block_pool_forward(x.to(DType::i64), {4, 4}); });
  message_of<ShapeError>([&] { block_pool_forward(x, {4, 4}, zeros({3, 4})); });
  message_of<ShapeError>([&] { block_pool_forward(x, {4, 4}, {}, zeros({2, 4, 5})); });
  message_of<DTypeError>([&] { block_pool_forward(x, {4, 4}, zeros({2, 4}, DType::f64)); });
  message_of<ShapeError>([&] { block_pool_backward(zeros({1, 3, 2, 4}), x, {4, 4}); });
  message_of<ShapeError>([&] { block_pool_backward_input(zeros({1, 3, 2, 4}), 8, {4, 4}); });
  message_of<ShapeError>([&] { block_unfold_backward_input(zeros({1, 2, 2, 15}), 8, {4, 4}); });
  message_of<ShapeError>([&] { block_unfold_forward(zeros({8, 4}), {4, 4}); });
}

}  // namespace
}  // namespace weft::attention
