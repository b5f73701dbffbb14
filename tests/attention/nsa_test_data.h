#pragma once

#include <limits>
#include <memory>

#include "weft/attention/nsa.h"

#include "layer_test.h"
#include "reference/nsa_reference.h"

namespace weft::attention::testing {

/// The small shape in which every rule of blocks, lists and windows shows within 64 tokens.
inline NsaOptions tiny_nsa() {
  return {.d_model = 16,
          .n_heads = 4,
          .n_kv_heads = 2,
          .head_dim = 8,
          .value_dim = 6,
          .block = 4,
          .stride = 2,
          .select_block = 8,
          .select_count = 3,
          .initial = 1,
          .local = 1,
          .window = 5,
          .init_std = 0.3};
}

/// One options object for each choice that changes what the layer computes.
inline std::vector<NsaOptions> nsa_variants() {
  std::vector<NsaOptions> all;
  const auto add = [&](const auto& change) { change(all.emplace_back(tiny_nsa())); };
  add([](NsaOptions&) {});
  for (const auto kind : {CompressorKind::weighted, CompressorKind::linear, CompressorKind::mlp})
    add([&](NsaOptions& o) { o.compressor = kind; });
  add([](NsaOptions& o) {
    o.compressor = CompressorKind::mlp;
    o.compressor_residual = true;
    o.compressor_hidden = 3;
  });
  add([](NsaOptions& o) { o.shared_kv = true; });
  for (const auto rope : {CompressedRope::middle, CompressedRope::end, CompressedRope::none,
                          CompressedRope::before}) {
    add([&](NsaOptions& o) { o.compressed_rope = rope; });
    add([&](NsaOptions& o) {
      o.compressed_rope = rope;
      o.shared_kv = true;
    });
  }
  add([](NsaOptions& o) { o.gate_hidden = 5; });
  add([](NsaOptions& o) { o.rope_theta = 0; });
  add([](NsaOptions& o) { o.n_kv_heads = 1; });
  add([](NsaOptions& o) { o.n_kv_heads = 4; });
  add([](NsaOptions& o) { o.stride = 4; });
  add([](NsaOptions& o) { o.block = o.stride = o.select_block = 4; });
  add([](NsaOptions& o) { o.initial = 0, o.local = 2, o.select_count = 4; });
  for (int mask = 1; mask < 7; ++mask) {
    for (const bool shared : {false, true}) {
      add([&](NsaOptions& o) {
        o.branches = {(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0};
        o.shared_kv = shared;
      });
    }
  }
  return all;
}

inline std::unique_ptr<NativeSparseAttention> make_nsa(const NsaOptions& options) {
  Generator generator(7);
  auto layer = std::make_unique<NativeSparseAttention>(options, generator);
  // Biases and other values that start as 0 or alike would hide what reads them.
  uint64_t seed = 1000;
  for (auto& [name, parameter] : layer->named_parameters()) {
    ++seed;
    if (name.find("bias") == std::string::npos && name.find("weights") == std::string::npos &&
        name.find("down.weight") == std::string::npos)
      continue;
    Variable changed = parameter;
    changed.mutable_data().copy_(random_tensor(parameter.shape(), DType::f32, seed, 0.3));
  }
  return layer;
}

inline Tensor forward(nn::SequenceMixer& layer, const Tensor& x) {
  const autograd::NoGradGuard no_grad;
  return layer.forward(autograd::Variable(x), {}).data();
}

/// Root mean square of the difference, relative to that of b where it is above 1e-3.
inline double relative_rms(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
  const double rms = std::sqrt(sum / static_cast<double>(std::max<size_t>(x.size(), 1)));
  return rms / std::max(1e-3, root_mean_square(b));
}

/// Compares output, branches, lists and all gradients of `layer`, whose parameters take x's type,
/// with the definition. Gives the least gap of the lists: below it rounding may change them.
inline double expect_agrees(NativeSparseAttention& layer, const Tensor& x, int64_t position = 0) {
  layer.to(x.dtype());
  layer.zero_grad();
  // What moves all keys of a row alike does not change its attention: gradients of compressed keys
  // cancel, and their rounding is large beside what is left.
  const double tolerance = layer_tolerance(x.dtype());
  const auto expect_value = [&](const Tensor& a, const Tensor& b, const std::string& name) {
    EXPECT_LE(layer_difference(a, b), tolerance) << name;
    EXPECT_LE(relative_rms(a, b), 0.012) << name;
  };
  const auto expect_gradient = [&](const Tensor& a, const Tensor& b, const std::string& name) {
    EXPECT_LE(layer_difference(a, b), 4 * tolerance) << name;
    EXPECT_LE(relative_rms(a, b), 0.03) << name;
  };
  const Tensor dy = random_tensor(x.shape(), x.dtype(), 99);
  reference::Parameters parameters;
  for (const auto& [name, parameter] : layer.named_parameters())
    parameters[name] = parameter.data();

  const autograd::Variable input(x, true);
  const auto parts = layer.parts(input, {.position = position});
  const autograd::Variable y = layer.combine(parts);
  // Lists may differ where rounding decides: the definition reads the same ones.
  const reference::NsaResult expected =
      reference::nsa_layer(layer.options(), parameters, x, dy, position,
                           {.selection = parts.selection ? &*parts.selection : nullptr});
  EXPECT_EQ(y.dtype(), x.dtype());
  expect_value(y.data(), expected.y, "y");
  for (size_t c = 0; c < 3; ++c) {
    EXPECT_EQ(parts.branches[c].defined(), expected.branches[c].defined()) << c;
    if (parts.branches[c].defined() && expected.branches[c].defined()) {
      expect_value(parts.branches[c].data(), expected.branches[c], "branch " + std::to_string(c));
    }
  }
  EXPECT_EQ(parts.selection.has_value(), expected.selection.has_value());
  const double ulp = x.dtype() == DType::f64 ? 1e-12 : x.dtype() == DType::f32 ? 1e-5 : 0.1;
  if (parts.selection && expected.gap > ulp) {
    EXPECT_TRUE(same_bits(parts.selection->offsets(), expected.selection->offsets()));
    const int64_t total = expected.selection->total();
    EXPECT_TRUE(same_bits(parts.selection->blocks().slice(0, 0, total),
                          expected.selection->blocks().slice(0, 0, total)));
  }

  y.backward(dy);
  expect_gradient(input.grad(), expected.dx, "dx");
  for (const auto& [name, parameter] : layer.named_parameters()) {
    const auto gradient = expected.gradients.find(name);
    if (gradient == expected.gradients.end()) {
      EXPECT_TRUE(!parameter.grad().defined() || root_mean_square(parameter.grad()) == 0) << name;
      continue;
    }
    if (!parameter.grad().defined()) {
      ADD_FAILURE() << name << " has no gradient";
      continue;
    }
    expect_gradient(parameter.grad(), gradient->second, name);
  }
  return parts.selection ? expected.gap : std::numeric_limits<double>::infinity();
}

}  // namespace weft::attention::testing
