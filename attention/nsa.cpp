#include "weft/attention/nsa.h"

#include <algorithm>
#include <cmath>

#include "weft/attention/block_stream.h"
#include "weft/attention/kernels/scored_attention.h"
#include "weft/attention/visible_pairs.h"
#include "weft/attention/window_cache.h"
#include "weft/autograd/functions/activation.h"
#include "weft/autograd/functions/arithmetic.h"
#include "weft/autograd/functions/join.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/rope.h"
#include "weft/autograd/functions/view.h"
#include "weft/tensor/check.h"

#include "block_options.h"

namespace weft::attention {
namespace {

constexpr const char* kWho = "native sparse attention";

void check_at_least(const char* option, int64_t value, int64_t least) {
  WEFT_CHECK(value >= least, ConfigError, "{}: {} must be at least {}, got {}", kWho, option, least,
             value);
}

/// Fills in what 0 stands for and checks the rest.
NsaOptions resolve(NsaOptions options) {
  check_at_least("d_model", options.d_model, 1);
  check_at_least("n_heads", options.n_heads, 1);
  if (options.n_kv_heads == 0) options.n_kv_heads = options.n_heads;
  WEFT_CHECK(options.n_kv_heads >= 1 && options.n_heads % options.n_kv_heads == 0, ConfigError,
             "{}: n_heads ({}) must be a multiple of n_kv_heads ({})", kWho, options.n_heads,
             options.n_kv_heads);
  if (options.head_dim == 0) {
    WEFT_CHECK(options.d_model % options.n_heads == 0, ConfigError,
               "{}: d_model ({}) must be a multiple of n_heads ({}) unless head_dim is given", kWho,
               options.d_model, options.n_heads);
    options.head_dim = options.d_model / options.n_heads;
  }
  if (options.value_dim == 0) options.value_dim = options.head_dim;
  check_at_least("head_dim", options.head_dim, 1);
  check_at_least("value_dim", options.value_dim, 1);
  check_at_least("compressor_hidden", options.compressor_hidden, 0);
  check_at_least("gate_hidden", options.gate_hidden, 0);
  check_at_least("window", options.window, 1);
  check_block_sizes(kWho, {.block = options.block,
                           .stride = options.stride,
                           .select_block = options.select_block,
                           .select_count = options.select_count,
                           .initial = options.initial,
                           .local = options.local});
  WEFT_CHECK(std::count(options.branches.begin(), options.branches.end(), true) > 0, ConfigError,
             "{}: branches must name at least one of cmp, slc and win", kWho);
  WEFT_CHECK(!options.compressor_residual || options.compressor == CompressorKind::mlp, ConfigError,
             "{}: compressor_residual needs the compressor mlp, got {}", kWho,
             name_of(options.compressor));
  WEFT_CHECK(std::isfinite(options.rope_theta) && options.rope_theta >= 0, ConfigError,
             "{}: rope_theta must be above 0, or 0 for no rotation, got {}", kWho,
             options.rope_theta);
  WEFT_CHECK(options.rope_theta == 0 || options.head_dim % 2 == 0, ConfigError,
             "{}: head_dim must be even for rotary positions, got {}", kWho, options.head_dim);
  WEFT_CHECK(options.init_std > 0 && options.output_init_std >= 0, ConfigError,
             "{}: init_std must be above 0 and output_init_std not below, got {} and {}", kWho,
             options.init_std, options.output_init_std);
  if (options.output_init_std == 0) options.output_init_std = options.init_std;
  return options;
}

void check_input(const Variable& x, const NsaOptions& options) {
  WEFT_CHECK(x.defined() && x.rank() == 3 && x.size(2) == options.d_model, ShapeError,
             "{}: x must be [B, T, {}], got {}", kWho, options.d_model,
             x.defined() ? x.data() : Tensor());
}

BlockShape blocks_of(const NsaOptions& options) {
  return {.block = options.block, .stride = options.stride};
}

int64_t branch_count(const NsaOptions& options) {
  return std::count(options.branches.begin(), options.branches.end(), true);
}

/// Whether compressed keys are made of keys that have not turned.
bool compresses_unturned(const NsaOptions& options) {
  return options.rope_theta > 0 && options.compressed_rope != CompressedRope::before;
}

}  // namespace

/// What the products with the weights give, [B, T, heads, dim] each; undefined where not needed.
struct NativeSparseAttention::Projections {
  Variable q, q_cmp;  // the queries of the compressed branch may stay unturned
  Variable k_cmp, v_cmp, k_slc, v_slc, k_win, v_win;
  Variable logits;
};

class NativeSparseAttention::Cache final : public nn::MixerCache {
 public:
  Cache(const NsaOptions& options, int64_t batch, int64_t capacity, DType dtype, Device device)
      : capacity_(checked_capacity(batch, capacity)), batch_(batch), dtype_(dtype) {
    const int64_t heads = options.n_kv_heads;
    const BlockShape blocks = blocks_of(options);
    const auto rows = [&](int64_t count, int64_t dim) {
      return TokenRing(batch, heads, count, dim, dtype, device);
    };
    const auto stream = [&](int64_t dim) {
      return BlockStream(blocks, batch, capacity, heads, dim, dtype, device);
    };
    const auto [cmp, slc, win] = options.branches;
    if (slc) {
      k_slc.emplace(rows(capacity, options.head_dim));
      v_slc.emplace(rows(capacity, options.value_dim));
    }
    if (cmp || slc) {
      k_raw.emplace(stream(options.head_dim));
      k_cmp.emplace(rows(blocks.count(capacity), options.head_dim));
    }
    if (cmp) {
      v_raw.emplace(stream(options.value_dim));
      v_cmp.emplace(rows(blocks.count(capacity), options.value_dim));
    }
    // Where all branches read one set of keys, the window is the end of the selected ones.
    if (win && !(slc && options.shared_kv)) {
      window.emplace(batch, capacity, options.window, heads, options.head_dim, options.value_dim,
                     dtype, device);
    }
  }

  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  int64_t bytes() const override {
    int64_t total = 0;
    for (const auto* ring : {&k_slc, &v_slc, &k_cmp, &v_cmp}) {
      if (*ring) total += (*ring)->bytes();
    }
    for (const auto* stream : {&k_raw, &v_raw}) {
      if (*stream) total += (*stream)->bytes();
    }
    return total + (window ? window->bytes() : 0);
  }
  void reset() override {
    length_ = 0;
    if (k_raw) k_raw->reset();
    if (v_raw) v_raw->reset();
    if (window) window->reset();
  }

  /// Throws where x [B, T, ...] does not fit, so that nothing is appended in part.
  void check(const Tensor& x) const {
    WEFT_CHECK(x.size(0) == batch_, ShapeError, "cache: made for {} sequences, got {}", batch_, x);
    WEFT_CHECK(x.dtype() == dtype_, DTypeError, "cache: made for {}, got {}", dtype_, x);
    check_room(length_, x.size(1), capacity_);
  }
  void advance(int64_t count) { length_ += count; }

  std::optional<TokenRing> k_slc, v_slc;    // turned, of all tokens
  std::optional<BlockStream> k_raw, v_raw;  // of the incomplete block
  std::optional<TokenRing> k_cmp, v_cmp;    // of all complete blocks; keys turned
  std::optional<WindowCache> window;

 private:
  int64_t capacity_, batch_;
  DType dtype_;
  int64_t length_ = 0;
};

NativeSparseAttention::NativeSparseAttention(const NsaOptions& options, Generator& generator)
    : SequenceMixer("NativeSparseAttention"), options_(resolve(options)) {
  add_projections(generator);
  // One product serves all projections; their parameters stay separate by name.
  autograd::pack_storage(projected_);
  if (reads_compressed_keys())
    k_compressor_ = add_compressor("k_compressor", options_.head_dim, generator);
  if (options_.branches[0])
    v_compressor_ = add_compressor("v_compressor", options_.value_dim, generator);
}

void NativeSparseAttention::add_projections(Generator& generator) {
  const int64_t width = options_.d_model, heads = options_.n_heads, groups = options_.n_kv_heads;
  const auto linear = [&](const char* name, int64_t in, int64_t out, bool bias,
                          double std) -> nn::Linear& {
    return register_module<nn::Linear>(name, in, out, generator,
                                       nn::LinearOptions{.bias = bias, .init_std = std});
  };
  const auto project = [&](const char* name, const HeadsPart& part) {
    layout_.push_back(part);
    projected_.push_back(linear(name, width, part.width(), false, options_.init_std).weight);
  };
  const bool turns = options_.rope_theta > 0;
  const bool both_queries =
      reads_compressed_keys() && options_.compressed_rope == CompressedRope::none;
  const HeadsPart key{groups, options_.head_dim, turns};
  const HeadsPart raw_key{groups, options_.head_dim, turns && !compresses_unturned(options_)};
  const HeadsPart value{groups, options_.value_dim, false};

  project("q_proj", {heads, options_.head_dim, turns && !both_queries});
  const auto [cmp, slc, win] = options_.branches;
  if (options_.shared_kv) {
    project("k_proj", reads_compressed_keys() ? raw_key : key);
    project("v_proj", value);
  } else {
    if (cmp || slc) project("k_proj_cmp", raw_key);
    if (cmp) project("v_proj_cmp", value);
    if (slc) project("k_proj_slc", key);
    if (slc) project("v_proj_slc", value);
    if (win) project("k_proj_win", key);
    if (win) project("v_proj_win", value);
  }
  const int64_t gates = heads * branch_count(options_);
  if (options_.gate_hidden > 0) {
    project("gate_up_proj", {1, options_.gate_hidden, false});
    gate_proj_ = &linear("gate_proj", options_.gate_hidden, gates, true, options_.init_std);
  } else {
    gate_proj_ = &linear("gate_proj", width, gates, true, options_.init_std);
    layout_.push_back({heads, branch_count(options_), false});
    projected_.push_back(gate_proj_->weight);
  }
  o_proj_ = &linear("o_proj", heads * options_.value_dim, width, false, options_.output_init_std);
}

BlockCompressor* NativeSparseAttention::add_compressor(const char* name, int64_t dim,
                                                       Generator& generator) {
  return &register_module<BlockCompressor>(
      name,
      BlockCompressorOptions{.kind = options_.compressor,
                             .blocks = blocks_of(options_),
                             .heads = options_.n_kv_heads,
                             .dim = dim,
                             .weights_per_head = options_.compressor == CompressorKind::weighted,
                             .hidden = options_.compressor_hidden,
                             .residual = options_.compressor_residual,
                             .init_std = options_.init_std},
      generator);
}

NativeSparseAttention::Projections NativeSparseAttention::project(const Variable& x,
                                                                  int64_t position) const {
  const RopeOptions rope{.theta = options_.rope_theta, .offset = position};
  const std::vector<Variable> parts =
      split_heads(autograd::linear(x, autograd::join_rows(projected_)), layout_, rope);
  auto next = parts.begin();
  Projections out;
  out.q = out.q_cmp = *next++;
  if (options_.rope_theta > 0 && !layout_.front().rotate) out.q = autograd::rope(out.q_cmp, rope);
  const auto [cmp, slc, win] = options_.branches;
  if (options_.shared_kv) {
    const Variable k = *next++, v = *next++;
    const bool turned = options_.rope_theta == 0 || layout_[1].rotate;
    const Variable k_turned = turned || !(slc || win) ? k : autograd::rope(k, rope);
    if (cmp || slc) out.k_cmp = k;
    if (cmp) out.v_cmp = v;
    if (slc) out.k_slc = k_turned, out.v_slc = v;
    if (win) out.k_win = k_turned, out.v_win = v;
  } else {
    if (cmp || slc) out.k_cmp = *next++;
    if (cmp) out.v_cmp = *next++;
    if (slc) out.k_slc = *next++, out.v_slc = *next++;
    if (win) out.k_win = *next++, out.v_win = *next++;
  }
  out.logits = *next;
  if (options_.gate_hidden > 0) {
    const Variable hidden = autograd::silu(autograd::squeeze(out.logits, 2));  // [B, T, M]
    out.logits = autograd::view(autograd::linear(hidden, gate_proj_->weight),
                                {x.size(0), x.size(1), options_.n_heads, branch_count(options_)});
  }
  return out;
}

Variable NativeSparseAttention::turn_compressed(const Variable& keys, int64_t first_block,
                                                int64_t position) const {
  if (!compresses_unturned(options_) || options_.compressed_rope == CompressedRope::none ||
      keys.size(1) == 0)
    return keys;
  const int64_t inside = options_.compressed_rope == CompressedRope::start    ? 0
                         : options_.compressed_rope == CompressedRope::middle ? options_.block / 2
                                                                              : options_.block - 1;
  const int64_t first = position + first_block * options_.stride + inside;
  return autograd::rope(keys,
                        {.theta = options_.rope_theta, .offset = first, .stride = options_.stride});
}

BlockSelectionOptions NativeSparseAttention::selection_options() const {
  return {.compression_block = options_.block,
          .compression_stride = options_.stride,
          .key_block = options_.select_block,
          .count = options_.select_count,
          .initial = options_.initial,
          .local = options_.local};
}

void NativeSparseAttention::attend_scored(const Projections& in, const Variable& k_cmp,
                                          const Variable& v_cmp, int64_t position,
                                          FlashAttentionOptions seen, Parts& out) const {
  BlockSelectionOptions choice = selection_options();
  choice.scale = seen.scale = 1 / std::sqrt(static_cast<double>(options_.head_dim));
  const bool with_values = options_.branches[0];
  const ScoredAttentionOutput compressed = scored_attention_forward(
      in.q_cmp.data(), k_cmp.data(), with_values ? v_cmp.data() : k_cmp.data(), seen);
  if (with_values) out.branches[0] = Variable(compressed.o);
  out.selection =
      select_blocks_by_scores(compressed, options_.n_kv_heads, position, in.k_slc.size(1), choice);
  out.branches[1] = selected_attention(in.q, in.k_slc, in.v_slc, *out.selection);
}

void NativeSparseAttention::attend_blocks(const Projections& in, const Variable& k_cmp,
                                          const Variable& v_cmp, int64_t position,
                                          const Selection* selection, Parts& out) const {
  const FlashAttentionOptions seen{
      .position = position, .key_length = options_.block, .key_stride = options_.stride};
  if (selection == nullptr && options_.branches[1] && !autograd::grad_enabled() &&
      can_keep_scores(in.q_cmp.data())) {
    attend_scored(in, k_cmp, v_cmp, position, seen, out);
    return;
  }
  Tensor lse;
  if (options_.branches[0]) {
    AttentionWithLse compressed = flash_attention_with_lse(in.q_cmp, k_cmp, v_cmp, seen);
    out.branches[0] = std::move(compressed.o);
    lse = std::move(compressed.lse);
  }
  if (!options_.branches[1]) return;
  if (selection != nullptr) {
    out.selection = *selection;
  } else {
    const Tensor& q = in.q_cmp.data();
    const Tensor& k = k_cmp.data();
    if (!lse.defined()) lse = flash_attention_forward(q, k, k, seen).lse;
    out.selection = select_blocks(q, k, lse, position, in.k_slc.size(1), selection_options());
  }
  out.branches[1] = selected_attention(in.q, in.k_slc, in.v_slc, *out.selection);
}

NativeSparseAttention::Parts NativeSparseAttention::parts(const Variable& x,
                                                          const nn::MixerContext& context,
                                                          const Selection* selection) {
  check_input(x, options_);
  const Projections in = project(x, context.position);
  Parts out;
  out.logits = in.logits;
  if (reads_compressed_keys()) {
    const Variable k_cmp = turn_compressed(k_compressor_->forward(in.k_cmp), 0, context.position);
    const Variable v_cmp = options_.branches[0] ? v_compressor_->forward(in.v_cmp) : Variable();
    attend_blocks(in, k_cmp, v_cmp, 0, selection, out);
  }
  if (options_.branches[2])
    out.branches[2] = flash_attention(in.q, in.k_win, in.v_win, {.window = options_.window});
  return out;
}

Variable NativeSparseAttention::combine(const Parts& parts) const {
  std::vector<Variable> branches;
  Variable o;  // [B, T, H, Dv]
  for (size_t c = 0; c < parts.branches.size(); ++c) {
    const Variable& branch = parts.branches[c];
    if (!branch.defined()) continue;
    branches.push_back(branch);
    if (!fixed_gates_) continue;
    const Variable part = branch * (*fixed_gates_)[c];
    o = o.defined() ? o + part : part;
  }
  if (!fixed_gates_) {
    const Shape gates{options_.n_heads, branch_count(options_)};
    o = gated_sum(branches, parts.logits, autograd::view(gate_proj_->bias, gates));
  }
  return autograd::linear(
      autograd::view(o, {o.size(0), o.size(1), options_.n_heads * options_.value_dim}),
      o_proj_->weight);
}

Variable NativeSparseAttention::forward(const Variable& x, const nn::MixerContext& context) {
  return combine(parts(x, context));
}

std::unique_ptr<nn::MixerCache> NativeSparseAttention::make_cache(int64_t batch, int64_t capacity,
                                                                  DType dtype,
                                                                  Device device) const {
  return std::make_unique<Cache>(options_, batch, capacity, dtype, device);
}

Variable NativeSparseAttention::prefill(const Variable& x, nn::MixerCache& cache) {
  const autograd::NoGradGuard no_grad;
  check_input(x, options_);
  auto* const kept = dynamic_cast<Cache*>(&cache);
  WEFT_CHECK(kept != nullptr, ConfigError, "{}: the cache was made by another mechanism", kWho);
  kept->check(x.data());
  const int64_t before = kept->length(), after = before + x.size(1);
  Projections in = project(x, before);
  Parts out;
  out.logits = in.logits;
  const auto [cmp, slc, win] = options_.branches;
  const Variable k_new = in.k_win, v_new = in.v_win;
  if (slc) {
    kept->k_slc->write(in.k_slc.data(), before);
    kept->v_slc->write(in.v_slc.data(), before);
    in.k_slc = Variable(kept->k_slc->read(0, after));
    in.v_slc = Variable(kept->v_slc->read(0, after));
  }
  if (cmp || slc) {
    // A block is seen by its own last token, so it is made before anything is read.
    const BlockShape blocks = blocks_of(options_);
    const int64_t known = blocks.count(before), all = blocks.count(after);
    const auto complete = [&](const Variable& rows, BlockStream& stream,
                              BlockCompressor& compressor, TokenRing& compressed, bool turn) {
      const Tensor completed = stream.append(rows.data());
      if (completed.size(1) > 0) {
        const Variable fresh = compressor.forward(Variable(completed));
        compressed.write((turn ? turn_compressed(fresh, known, 0) : fresh).data(), known);
      }
      return Variable(compressed.read(0, all));
    };
    const Variable k_cmp = complete(in.k_cmp, *kept->k_raw, *k_compressor_, *kept->k_cmp, true);
    const Variable v_cmp =
        cmp ? complete(in.v_cmp, *kept->v_raw, *v_compressor_, *kept->v_cmp, false) : Variable();
    attend_blocks(in, k_cmp, v_cmp, before, nullptr, out);
  }
  if (win && kept->window) {
    out.branches[2] = Variable(kept->window->attend(in.q.data(), k_new.data(), v_new.data()));
  } else if (win) {
    const int64_t first = std::max<int64_t>(0, before - options_.window + 1);
    out.branches[2] =
        flash_attention(in.q, Variable(kept->k_slc->read(first, after)),
                        Variable(kept->v_slc->read(first, after)), {.window = options_.window});
  }
  kept->advance(x.size(1));
  return combine(out);
}

nn::MixerCost NativeSparseAttention::cost(double tokens, double compressed_pairs,
                                          double selected_pairs, double window_pairs,
                                          double blocks) const {
  const auto [cmp, slc, win] = options_.branches;
  const auto heads = static_cast<double>(options_.n_heads);
  const auto width = static_cast<double>(options_.d_model);
  const auto dim = static_cast<double>(options_.head_dim);
  const auto value_dim = static_cast<double>(options_.value_dim);
  double projected = heads * value_dim;  // outputs of the products with a width of d_model
  for (const HeadsPart& part : layout_) projected += static_cast<double>(part.width());
  const double gates = static_cast<double>(options_.gate_hidden) * heads *
                       static_cast<double>(branch_count(options_));
  const double pairs =
      (cmp ? compressed_pairs : 0) + (slc ? selected_pairs : 0) + (win ? window_pairs : 0);
  double core = 2 * heads * (dim + value_dim) * pairs;
  // Choosing takes the scores once more, or for the first time.
  if (slc) core += 2 * heads * dim * compressed_pairs * (cmp ? 1 : 2);
  if (k_compressor_ != nullptr) core += blocks * k_compressor_->block_flops();
  if (v_compressor_ != nullptr) core += blocks * v_compressor_->block_flops();
  return {.projection_flops = 2 * tokens * (width * projected + gates), .core_flops = core};
}

nn::MixerCost NativeSparseAttention::forward_cost(int64_t tokens) const {
  const int64_t blocks = blocks_of(options_).count(tokens), size = options_.select_block;
  const auto count = static_cast<double>(blocks);
  const double compressed = count * static_cast<double>(tokens - options_.block + 1) -
                            static_cast<double>(options_.stride) * count * (count - 1) / 2;
  double selected = 0;  // by the own blocks of the queries
  for (int64_t own = 0; own * size < tokens; ++own) {
    const auto queries = static_cast<double>(std::min(size, tokens - own * size));
    const auto others = static_cast<double>((std::min(options_.select_count, own + 1) - 1) * size);
    selected += queries * others + queries * (queries + 1) / 2;
  }
  return cost(static_cast<double>(tokens), blocks == 0 ? 0 : compressed, selected,
              visible_pairs(tokens, options_.window), count);
}

nn::MixerCost NativeSparseAttention::step_cost(int64_t context) const {
  const BlockShape blocks = blocks_of(options_);
  const int64_t size = options_.select_block, own = context / size;
  const int64_t selected =
      (std::min(options_.select_count, own + 1) - 1) * size + context % size + 1;
  return cost(1, static_cast<double>(blocks.count(context + 1)), static_cast<double>(selected),
              static_cast<double>(rows_kept(context + 1, options_.window)),
              static_cast<double>(blocks.count(context + 1) - blocks.count(context)));
}

int64_t NativeSparseAttention::cache_bytes(int64_t capacity, DType dtype) const {
  const auto [cmp, slc, win] = options_.branches;
  const int64_t key = options_.n_kv_heads * options_.head_dim;
  const int64_t value = options_.n_kv_heads * options_.value_dim;
  const int64_t compressed =
      blocks_of(options_).count(capacity) + std::min(options_.block, capacity);
  int64_t elements = 0;
  if (slc) elements += capacity * (key + value);
  if (cmp || slc) elements += compressed * key;
  if (cmp) elements += compressed * value;
  if (win && !(slc && options_.shared_kv))
    elements += rows_kept(capacity, options_.window) * (key + value);
  return elements * static_cast<int64_t>(size_of(dtype));
}

}  // namespace weft::attention
