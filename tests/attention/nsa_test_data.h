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

/// Any options that fit together.
inline NsaOptions random_nsa(Draw& draw) {
  NsaOptions o;
  o.d_model = draw(3, 20);
  o.n_kv_heads = draw(1, 3);
  o.n_heads = o.n_kv_heads * draw(1, 3);
  o.head_dim = 2 * draw(1, 9);
  o.value_dim = draw(1, 18);
  o.stride = draw(1, 6);
  o.block = o.stride * draw(1, 4);
  o.select_block = o.block + o.stride * draw(0, 4);
  o.initial = draw(0, 2);
  o.local = draw(1, 3);
  o.select_count = o.initial + o.local + draw(0, 3);
  o.window = draw(1, 40);
  o.compressor = static_cast<CompressorKind>(draw(0, 3));
  o.compressor_hidden = draw(0, 6);
  o.compressor_residual = o.compressor == CompressorKind::mlp && draw.one_in(2);
  o.shared_kv = draw.one_in(3);
  o.compressed_rope = static_cast<CompressedRope>(draw(0, 4));
  o.gate_hidden = draw.one_in(3) ? draw(1, 6) : 0;
  if (draw.one_in(4)) {
    const int64_t mask = draw(1, 7);
    o.branches = {(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0};
  }
  if (draw.one_in(6)) o.rope_theta = 0;
  o.init_std = 0.3;
  return o;
}

inline std::unique_ptr<NativeSparseAttention> make_nsa(const NsaOptions& options) {
  return make_layer<NativeSparseAttention>(options);
}

/// Compares output, branches, lists and all gradients of `layer`, whose parameters take x's type,
/// with the definition. Gives the least gap of the lists: below it rounding may change them.
inline double compare_with_definition(NativeSparseAttention& layer, const Tensor& x,
                                      ResultCheck& check, int64_t position = 0) {
  const DType dtype = x.dtype();
  layer.to(dtype);
  layer.zero_grad();
  const Tensor dy = random_tensor(x.shape(), dtype, 99);
  const reference::Parameters parameters = parameters_of(layer);

  const autograd::Variable input(x, true);
  const auto parts = layer.parts(input, {.position = position});
  const autograd::Variable y = layer.combine(parts);
  // Lists may differ where rounding decides: the definition reads the same ones.
  const auto definition = [&] {
    return reference::nsa_layer(layer.options(), parameters, x, dy, position,
                                {.selection = parts.selection ? &*parts.selection : nullptr});
  };
  const reference::NsaResult exact = definition();
  const reference::NsaResult naive = rounded_result(exact, dtype, definition);
  EXPECT_EQ(y.dtype(), dtype);
  check.compare(y.data(), exact.y, naive.y, "y");
  for (size_t c = 0; c < 3; ++c) {
    EXPECT_EQ(parts.branches[c].defined(), exact.branches[c].defined()) << c;
    if (parts.branches[c].defined() && exact.branches[c].defined()) {
      check.compare(parts.branches[c].data(), exact.branches[c], naive.branches[c],
                    "branch " + std::to_string(c));
    }
  }
  EXPECT_EQ(parts.selection.has_value(), exact.selection.has_value());
  const double ulp = dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-5 : 0.1;
  if (parts.selection && exact.gap > ulp) {
    EXPECT_TRUE(same_bits(parts.selection->offsets(), exact.selection->offsets()));
    const int64_t total = exact.selection->total();
    EXPECT_TRUE(same_bits(parts.selection->blocks().slice(0, 0, total),
                          exact.selection->blocks().slice(0, 0, total)));
  }
  y.backward(dy);
  compare_gradients(layer, input.grad(), exact, naive, check);
  return parts.selection ? exact.gap : std::numeric_limits<double>::infinity();
}

}  // namespace weft::attention::testing
