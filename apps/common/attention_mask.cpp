#include "common/attention_mask.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include <fmt/format.h>

#include "weft/io/svg_chart.h"
#include "weft/tensor/ops/random.h"

#include "common/attention_bench.h"

namespace weft::apps {
namespace {

/// Gradients below this share of the largest are what a closed gate lets through.
constexpr float kNothing = 1e-12f;
/// Sigmoid of it: 2e-35.
constexpr float kClosed = -80.0f;

std::vector<bool> find_reads(nn::SequenceMixer& mixer, int64_t d_model, int64_t tokens,
                             uint64_t seed) {
  Generator generator(seed);
  nn::Variable x(normal({1, tokens, d_model}, generator), /*requires_grad=*/true);
  const nn::Variable y = mixer.forward(x, {.position = 0, .generator = &generator});
  const Tensor weights = normal({1, 1, d_model}, generator);
  std::vector<float> largest(static_cast<size_t>(tokens * tokens), 0);  // of each pair
  for (int64_t query = 0; query < tokens; ++query) {
    Tensor dy = zeros(y.shape());
    dy.slice(1, query, query + 1).copy_(weights);
    x.zero_grad();
    y.backward(dy, /*retain_graph=*/true);
    const std::vector<float> gradient = x.grad().to_vector<float>();
    for (size_t i = 0; i < gradient.size(); ++i) {
      float& most = largest[static_cast<size_t>(query * tokens) + i / static_cast<size_t>(d_model)];
      most = std::max(most, std::abs(gradient[i]));
    }
  }
  const float threshold = kNothing * *std::max_element(largest.begin(), largest.end());
  std::vector<bool> reads;
  for (size_t i = 0; i < largest.size(); ++i) {
    const auto row = static_cast<size_t>(tokens + 1);
    reads.push_back(i % row == 0 || largest[i] > threshold);
  }
  mixer.zero_grad();
  return reads;
}

/// "cmp+slc" -> cmp, slc.
std::vector<std::string> split_branches(const std::string& text) {
  std::vector<std::string> names;
  std::stringstream stream(text);
  for (std::string name; std::getline(stream, name, '+');) names.push_back(name);
  return names;
}

/// The branches of a mechanism that are on with these options.
std::vector<std::string> branches_of(const attention::MechanismInfo& mechanism,
                                     const std::vector<std::string>& options) {
  attention::OptionValues values(mechanism.name, mechanism.options);
  if (!values.knows("branches")) return {""};
  for (const std::string& option : options) {
    const size_t equals = option.find('=');
    const std::string key = option.substr(0, equals);
    if (key == "branches" || key.ends_with(".branches"))
      values.set("branches", option.substr(equals + 1));
  }
  return split_branches(values.text("branches"));
}

constexpr int kMargin = 28;
constexpr int kTitleHeight = 44;

/// Squares of one branch, a path of horizontal runs.
std::string squares(const AttentionMask& mask, size_t branch, int cell) {
  std::string path;
  for (int64_t query = 0; query < mask.tokens; ++query) {
    for (int64_t key = 0; key < mask.tokens;) {
      int64_t end = key;
      while (end < mask.tokens && mask.read(branch, query, end)) ++end;
      if (end > key) {
        path += fmt::format("M{} {}h{}v{}h-{}z", key * cell, query * cell, (end - key) * cell, cell,
                            (end - key) * cell);
      }
      key = end + 1;
    }
  }
  return path;
}

std::string name_of(const std::string& branch) {
  if (branch == "cmp") return "compressed";
  if (branch == "slc") return "selected";
  if (branch == "win") return "window";
  return branch;
}

std::string draw(const AttentionMask& mask, int cell) {
  const int64_t side = mask.tokens * cell;
  std::string svg =
      fmt::format("<text x=\"0\" y=\"16\" font-weight=\"bold\" font-size=\"14\">{}</text>\n",
                  io::escape_markup(mask.mechanism));
  int legend = 0;
  for (size_t i = 0; mask.branches.size() > 1 && i < mask.branches.size(); ++i) {
    const std::string name = name_of(mask.branches[i]);
    svg += fmt::format(
        "<rect x=\"{}\" y=\"26\" width=\"10\" height=\"10\" fill=\"{}\"/>\n"
        "<text x=\"{}\" y=\"35\">{}</text>\n",
        legend, io::chart_colour(i), legend + 14, io::escape_markup(name));
    legend += 26 + 7 * static_cast<int>(name.size());
  }
  svg += fmt::format(
      "<g transform=\"translate(0 {})\">\n"
      "<path d=\"M0 0h{}v{}h-{}z\" fill=\"none\" stroke=\"currentColor\" opacity=\"0.3\"/>\n"
      "<path d=\"M0 0L{} {}\" stroke=\"currentColor\" opacity=\"0.15\"/>\n",
      kTitleHeight, side, side, side, side, side);
  // The first branch lies lowest.
  for (size_t i = 0; i < mask.branches.size(); ++i) {
    svg += fmt::format("<path fill=\"{}\" opacity=\"0.8\" d=\"{}\"/>\n", io::chart_colour(i),
                       squares(mask, i, cell));
  }
  return svg + fmt::format(
                   "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">key 0 to {}</text>\n"
                   "<text x=\"-10\" y=\"{}\" transform=\"rotate(-90 -10 {})\" "
                   "text-anchor=\"middle\">query {} to 0</text>\n</g>\n",
                   side / 2, side + 18, mask.tokens - 1, side / 2, side / 2, mask.tokens - 1);
}

}  // namespace

AttentionMask find_mask(nn::SequenceMixer& mixer, const std::string& mechanism,
                        const std::vector<std::string>& branches, int64_t d_model, int64_t tokens,
                        uint64_t seed) {
  AttentionMask mask{.mechanism = mechanism, .tokens = tokens, .branches = branches, .reads = {}};
  if (branches.size() <= 1) {
    mask.reads.push_back(find_reads(mixer, d_model, tokens, seed));
    return mask;
  }
  nn::Variable bias = mixer.parameter("gate_proj.bias");
  const Tensor learned = bias.data().clone();
  const auto count = static_cast<int64_t>(branches.size());
  for (int64_t branch = 0; branch < count; ++branch) {
    std::vector<float> gates(static_cast<size_t>(bias.numel()), kClosed);
    for (int64_t i = branch; i < bias.numel(); i += count) gates[static_cast<size_t>(i)] = 0;
    bias.mutable_data().copy_(from_vector(gates, bias.shape()));
    mask.reads.push_back(find_reads(mixer, d_model, tokens, seed));
  }
  bias.mutable_data().copy_(learned);
  return mask;
}

std::vector<AttentionMask> find_masks(const std::string& schedule,
                                      const attention::MixerShape& shape,
                                      const std::vector<std::string>& options, int64_t tokens,
                                      uint64_t seed) {
  const std::vector<std::string> layers = schedule_pattern(schedule);
  attention::AttentionConfig config{.shape = shape, .schedule = schedule, .options = options};
  config.shape.n_layers = static_cast<int64_t>(layers.size());
  Generator generator(seed);
  const nn::MixerFactory factory = attention::make_mixer_factory(config, generator);
  std::vector<AttentionMask> masks;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    masks.push_back(find_mask(*factory(static_cast<int>(layer)), layers[layer],
                              branches_of(attention::find_mechanism(layers[layer]), options),
                              shape.d_model, tokens, seed));
  }
  return masks;
}

std::string plot_masks(const std::vector<AttentionMask>& masks, const std::string& title) {
  constexpr int kWidest = 384;
  std::string body;
  int left = kMargin;
  int height = 0;
  for (const AttentionMask& mask : masks) {
    const int cell = std::max<int>(1, static_cast<int>(kWidest / mask.tokens));
    const int side = cell * static_cast<int>(mask.tokens);
    body += fmt::format("<g transform=\"translate({} 8)\">\n{}</g>\n", left, draw(mask, cell));
    left += std::max(side, 240) + kMargin;
    height = std::max(height, 8 + kTitleHeight + side + kMargin);
  }
  return io::svg_page(title, left, {{body, height}});
}

}  // namespace weft::apps
