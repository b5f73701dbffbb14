#include "weft/attention/asa_global.h"

#include <algorithm>
#include <cmath>

#include "weft/attention/asa_cache.h"
#include "weft/attention/kernels/scored_attention.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/view.h"
#include "weft/tensor/check.h"

#include "block_options.h"

namespace weft::attention {
namespace {

constexpr const char* kWho = "alternating sparse attention, global layer";

AsaGlobalOptions checked(const AsaGlobalOptions& options) {
  check_block_sizes(kWho, {.block = options.block,
                           .stride = options.stride,
                           .select_block = options.select_block,
                           .select_count = options.select_count,
                           .initial = options.initial,
                           .local = options.local});
  WEFT_CHECK(options.query_run >= 1, ConfigError, "{}: query_run must be at least 1, got {}", kWho,
             options.query_run);
  WEFT_CHECK(options.select_block % options.query_run == 0, ConfigError,
             "{}: query_run ({}) must divide select_block ({})", kWho, options.query_run,
             options.select_block);
  WEFT_CHECK(options.latent.window == 0, ConfigError, "{}: takes no window, got {}", kWho,
             options.latent.window);
  return options;
}

/// The rotary part of a group of rows, undefined where there is none.
Tensor data_of(const Variable& x) {
  return x.defined() ? x.data() : Tensor();
}
Variable variable_of(const Tensor& x) {
  return x.defined() ? Variable(x) : Variable();
}

}  // namespace

AsaGlobal::AsaGlobal(const AsaGlobalOptions& options, Generator& generator)
    : LatentMixer("AsaGlobal", kWho, checked(options).latent, generator),
      asa_(options),
      blocks_{.block = options.block, .stride = options.stride} {
  asa_.latent = options_;
  const int64_t branches = asa_.branches == AsaBranches::both ? 2 : 1;
  gate_proj_ =
      &register_module<nn::Linear>("gate_proj", options_.d_model, options_.n_heads * branches,
                                   generator, nn::LinearOptions{.init_std = options_.init_std});
  BlockCompressorOptions compressor{.kind = asa_.compressor,
                                    .blocks = blocks_,
                                    .heads = options_.groups,
                                    .dim = options_.latent_dim,
                                    .init_std = options_.init_std};
  latent_compressor_ =
      &register_module<BlockCompressor>("latent_compressor", compressor, generator);
  if (options_.rope_dim > 0) {
    compressor.heads = 1;
    compressor.dim = options_.rope_dim;
    rope_compressor_ = &register_module<BlockCompressor>("rope_compressor", compressor, generator);
  }
}

BlockSelectionOptions AsaGlobal::selection_options() const {
  return {.compression_block = asa_.block,
          .compression_stride = asa_.stride,
          .key_block = asa_.select_block,
          .count = asa_.select_count,
          .initial = asa_.initial,
          .local = asa_.local,
          .query_tile = asa_.query_run,
          .scale = scale()};
}

AsaGlobal::LatentRows AsaGlobal::compress(const Variable& latents, const Variable& raw_rope_keys,
                                          int64_t first, int64_t position) const {
  LatentRows blocks{latent_compressor_->forward(latents), Variable()};
  if (!raw_rope_keys.defined()) return blocks;
  blocks.rope_keys = rope_compressor_->forward(raw_rope_keys);
  if (blocks.latents.size(1) > 0)
    blocks.rope_keys = turn(blocks.rope_keys, position + first * asa_.stride, asa_.stride);
  return blocks;
}

Selection AsaGlobal::select(const Variable& q, const AbsorbedQueries& absorbed,
                            const LatentRows& blocks, const Tensor& lse, int64_t position,
                            const Selection* inherited) const {
  const autograd::NoGradGuard no_grad;
  const int64_t queries = q.size(1), run = asa_.query_run, begun = position % run;
  if (begun > 0 && begun + queries <= run) {  // a call inside a run: its list is known
    return {{.batch = q.size(0),
             .groups = options_.groups,
             .queries = queries,
             .keys = position + queries,
             .position = position,
             .query_tile = run,
             .key_block = asa_.select_block},
            inherited->offsets(),
            inherited->blocks()};
  }
  Tensor rows;
  if (absorbed.latent.defined()) {
    rows = absorbed.joined().data();
  } else {  // only the first query of each run is read
    rows = empty({q.size(0), queries, q.size(2), options_.latent_dim + options_.rope_dim},
                 q.dtype(), q.device());
    const int64_t first = (run - begun) % run;
    rows.slice(1, first, queries, run)
        .copy_(absorb(Variable(q.data().slice(1, first, queries, run))).joined().data());
  }
  return select_blocks(rows, join(blocks.latents, blocks.rope_keys).k.data(), lse, position,
                       position + queries, selection_options(), inherited);
}

AsaGlobal::Attended AsaGlobal::attend(const Variable& x, const Variable& q,
                                      const LatentRows& tokens, const LatentRows& blocks,
                                      int64_t position, const Selection* inherited,
                                      bool absorb_compressed, bool absorb_selected) const {
  AbsorbedQueries absorbed;
  const bool selects = asa_.branches != AsaBranches::compressed;
  if (absorb_compressed || (selects && absorb_selected)) absorbed = absorb(q);
  std::vector<Variable> branches;
  std::optional<ScoredAttentionOutput> scored;  // where one query chooses by the scores that it has
  const bool begins_run = position % asa_.query_run == 0;
  Tensor lse;
  {
    // Without the branch, its statistics serve the selection alone.
    const autograd::GradModeGuard mode(autograd::grad_enabled() &&
                                       asa_.branches != AsaBranches::selected);
    FlashAttentionOptions visible{.scale = scale(),
                                  .position = position,
                                  .key_length = asa_.block,
                                  .key_stride = asa_.stride};
    AttentionWithLse out;
    if (absorb_compressed && selects && begins_run && !autograd::grad_enabled() &&
        can_keep_scores(absorbed.latent.data())) {
      scored = attend_scored_latents(absorbed, blocks.latents, blocks.rope_keys, visible);
      out = {Variable(scored->o), scored->lse};
    } else if (absorb_compressed) {
      out = attend_latents(absorbed, blocks.latents, blocks.rope_keys, visible);
    } else {
      const KeysValues heads = expand(blocks.latents, blocks.rope_keys);
      out = flash_attention_with_lse(q, heads.k, heads.v, visible);
    }
    lse = out.lse;
    if (asa_.branches != AsaBranches::selected) branches.push_back(out.o);
  }
  Attended result;
  if (selects) {
    result.selection = scored ? select_blocks_by_scores(*scored, options_.groups, position,
                                                        position + 1, selection_options())
                              : select(q, absorbed, blocks, lse, position, inherited);
    if (absorb_selected) {
      branches.push_back(
          attend_selected_latents(absorbed, tokens.latents, tokens.rope_keys, *result.selection));
    } else {
      const KeysValues heads = expand(tokens.latents, tokens.rope_keys);
      branches.push_back(
          selected_attention(q, heads.k, heads.v, *result.selection, {.scale = scale()}));
    }
  }
  // Gates are numbers, so that branches of one form may be added before their values are made.
  const bool both = branches.size() == 2;
  const bool late = both      ? absorb_compressed && absorb_selected
                    : selects ? absorb_selected
                              : absorb_compressed;
  if (both && !late) {
    if (absorb_compressed) branches[0] = values_of(branches[0]);
    if (absorb_selected) branches[1] = values_of(branches[1]);
  }
  result.heads = gated_sum(branches, gate_logits(x), gate_bias());
  if (late) result.heads = values_of(result.heads);
  return result;
}

Variable AsaGlobal::gate_logits(const Variable& x) const {
  const int64_t heads = options_.n_heads;
  return autograd::view(autograd::linear(x, gate_proj_->weight),
                        {x.size(0), x.size(1), heads, gate_proj_->weight.size(0) / heads});
}

Variable AsaGlobal::gate_bias() const {
  const int64_t heads = options_.n_heads;
  return autograd::view(gate_proj_->bias, {heads, gate_proj_->weight.size(0) / heads});
}

AsaGlobal::Attended AsaGlobal::attend_all(const Variable& x, int64_t position) const {
  check_input(x);
  const Rows rows = project(x, position);
  const LatentRows tokens{rows.latents, turn(rows.rope_keys, position)};
  const LatentRows blocks = compress(rows.latents, rows.rope_keys, 0, position);
  const bool absorbed = options_.form == LatentForm::absorbed;
  return attend(x, rows.q, tokens, blocks, 0, nullptr, absorbed, absorbed);
}

Variable AsaGlobal::forward(const Variable& x, const nn::MixerContext& context) {
  return output(attend_all(x, context.position).heads);
}

Selection AsaGlobal::selection(const Variable& x, const nn::MixerContext& context) const {
  const autograd::NoGradGuard no_grad;
  WEFT_CHECK(asa_.branches != AsaBranches::compressed, ConfigError,
             "{}: selects nothing without the selected branch", kWho);
  return *attend_all(x, context.position).selection;
}

std::unique_ptr<nn::MixerCache> AsaGlobal::make_cache(int64_t batch, int64_t capacity, DType dtype,
                                                      Device device) const {
  return std::make_unique<AsaCache>(batch, capacity,
                                    AsaCacheOptions{.blocks = blocks_,
                                                    .groups = options_.groups,
                                                    .latent_dim = options_.latent_dim,
                                                    .rope_dim = options_.rope_dim,
                                                    .select_count = asa_.select_count,
                                                    .query_run = asa_.query_run,
                                                    .select_block = asa_.select_block},
                                    dtype, device);
}

Variable AsaGlobal::prefill(const Variable& x, nn::MixerCache& cache) {
  const autograd::NoGradGuard no_grad;
  check_input(x);
  auto* const asa = dynamic_cast<AsaCache*>(&cache);
  WEFT_CHECK(asa != nullptr, ConfigError, "{}: the cache was made by another mechanism", kWho);
  const int64_t earlier = cache.length(), count = x.size(1), end = earlier + count;
  const Rows rows = project(x, earlier);
  std::optional<Selection> inherited;
  if (earlier % asa_.query_run > 0 && asa_.branches != AsaBranches::compressed)
    inherited = asa->kept_lists();
  const AsaCache::Rows completed = asa->append(
      rows.latents.data(), data_of(turn(rows.rope_keys, earlier)), data_of(rows.rope_keys));
  if (completed.latents.size(1) > 0) {
    const LatentRows fresh = compress(Variable(completed.latents), variable_of(completed.rope_keys),
                                      asa->complete_blocks(), 0);
    asa->append_blocks(fresh.latents.data(), data_of(fresh.rope_keys));
  }
  const auto wrapped = [](const AsaCache::Rows& in) {
    return LatentRows{Variable(in.latents), variable_of(in.rope_keys)};
  };
  // Keys and values of all heads pay for themselves where many queries read them.
  const double expansion = 2 * static_cast<double>(options_.latent_dim * options_.n_heads *
                                                   (options_.head_dim + options_.value_dim));
  const auto absorbs = [&](double pairs, int64_t keys) {
    return absorbed_flops() * pairs + expansion * static_cast<double>(count) <=
           naive_flops() * pairs + expansion * static_cast<double>(keys);
  };
  const Attended attended =
      attend(x, rows.q, wrapped(asa->tokens()), wrapped(asa->blocks()), earlier,
             inherited ? &*inherited : nullptr,
             absorbs(compressed_pairs(end) - compressed_pairs(earlier), blocks_.count(end)),
             absorbs(selected_pairs(end) - selected_pairs(earlier), end));
  if (attended.selection) asa->keep_lists(*attended.selection);
  return output(attended.heads);
}

double AsaGlobal::compressed_pairs(int64_t tokens) const {
  const auto blocks = static_cast<double>(blocks_.count(tokens));
  return blocks * static_cast<double>(tokens - asa_.block + 1) -
         static_cast<double>(asa_.stride) * blocks * (blocks - 1) / 2;
}

double AsaGlobal::selected_pairs(int64_t tokens) const {
  // Tokens of block b read min(n, b + 1) - 1 whole blocks and their own up to themselves.
  const int64_t size = asa_.select_block;
  double pairs = 0;
  for (int64_t block = 0; block * size < tokens; ++block) {
    const auto rows = static_cast<double>(std::min(size, tokens - block * size));
    const auto whole = static_cast<double>((std::min(asa_.select_count, block + 1) - 1) * size);
    pairs += rows * whole + rows * (rows + 1) / 2;
  }
  return pairs;
}

nn::MixerCost AsaGlobal::cost(double tokens, double compressed, double selected, double blocks,
                              bool absorbed) const {
  const double pair = absorbed ? absorbed_flops() : naive_flops();
  const auto gates = static_cast<double>(options_.d_model * gate_proj_->weight.size(0));
  double core = pair * compressed + blocks * latent_compressor_->block_flops();
  if (rope_compressor_ != nullptr) core += blocks * rope_compressor_->block_flops();
  if (asa_.branches != AsaBranches::compressed) {
    core += pair * selected;
    // The importance of blocks, for the first query of every run.
    core += 2 * static_cast<double>(options_.n_heads * (options_.latent_dim + options_.rope_dim)) *
            compressed / static_cast<double>(asa_.query_run);
  }
  return {.projection_flops = (projection_flops() + 2 * gates) * tokens, .core_flops = core};
}

nn::MixerCost AsaGlobal::forward_cost(int64_t tokens) const {
  return cost(static_cast<double>(tokens), compressed_pairs(tokens), selected_pairs(tokens),
              static_cast<double>(blocks_.count(tokens)), options_.form == LatentForm::absorbed);
}

nn::MixerCost AsaGlobal::step_cost(int64_t context) const {
  return cost(1, static_cast<double>(blocks_.count(context + 1)),
              selected_pairs(context + 1) - selected_pairs(context),
              1 / static_cast<double>(asa_.stride), /*absorbed=*/true);
}

int64_t AsaGlobal::cache_bytes(int64_t capacity, DType dtype) const {
  const int64_t row = options_.groups * options_.latent_dim + options_.rope_dim;
  return (row * (capacity + blocks_.count(capacity)) +
          std::min(asa_.block, capacity) * options_.rope_dim) *
             static_cast<int64_t>(size_of(dtype)) +
         options_.groups * asa_.select_count * static_cast<int64_t>(sizeof(int32_t));
}

std::string AsaGlobal::describe() const {
  const LatentOptions& o = options_;
  std::string text = fmt::format(
      "d_model={}, heads={}, groups={}, head_dim={}, value_dim={}, latent_dim={}, rope_dim={}, "
      "block={}, stride={}, select_block={}, select_count={} ({} initial, {} local), query_run={}",
      o.d_model, o.n_heads, o.groups, o.head_dim, o.value_dim, o.latent_dim, o.rope_dim, asa_.block,
      asa_.stride, asa_.select_block, asa_.select_count, asa_.initial, asa_.local, asa_.query_run);
  if (asa_.branches != AsaBranches::both) {
    text += asa_.branches == AsaBranches::compressed ? ", compressed alone" : ", selected alone";
  }
  return text;
}

}  // namespace weft::attention
