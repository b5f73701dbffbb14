// The CPU yardstick: one training step of the same Llama-shaped decoder in libtorch, eager mode,
// f32, AdamW and clipping to norm 1. Prints one JSON object with the fields of `weft bench step`
// that both have.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/torch.h>

extern "C" char* openblas_get_corename(void) __attribute__((weak));

namespace {

using torch::Tensor;
namespace F = torch::nn::functional;

constexpr const char* kUsage =
    "libtorch_cpu_step: times a training step in libtorch on the CPU; prints JSON\n"
    "  --n-layers 6 --d-model 192 --n-heads 6 --d-ff 512 --vocab-size 256\n"
    "  --seq-len 256 --batch-size 16    the model and the batch\n"
    "  --steps 6 --warmup 2             timed steps (the median counts), and steps before them\n"
    "  --threads 0                      0: one a core\n";

using Flags = std::map<std::string, std::int64_t>;

Flags parse(int argc, char** argv) {
  Flags flags{{"n-layers", 6},     {"d-model", 192}, {"n-heads", 6},     {"d-ff", 512},
              {"vocab-size", 256}, {"seq-len", 256}, {"batch-size", 16}, {"steps", 6},
              {"warmup", 2},       {"threads", 0}};
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--help" || name == "-h") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    }
    const auto at = name.rfind("--", 0) == 0 ? flags.find(name.substr(2)) : flags.end();
    char* end = nullptr;
    const std::int64_t value = i + 1 < argc ? std::strtoll(argv[i + 1], &end, 10) : -1;
    if (at == flags.end() || end == nullptr || *end != '\0' || value < 0) {
      std::fprintf(stderr, "error: bad argument '%s'\n%s", name.c_str(), kUsage);
      std::exit(2);
    }
    at->second = value;
  }
  return flags;
}

// Bytes after a key of /proc/self/status: VmRSS is what is resident now, VmHWM its highest value so
// far.
std::int64_t resident_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word == key + ":") {
      std::int64_t kib = 0;
      status >> kib;
      return kib * 1024;
    }
  }
  return 0;
}

Tensor rms_norm(const Tensor& x, const Tensor& gain) {
  return x * torch::rsqrt(x.pow(2).mean(-1, /*keepdim=*/true) + 1e-6) * gain;
}

// What every block shares: rotary angles [T, D/2] and the additive causal mask [T, T].
struct Positions {
  Tensor cos, sin, mask;

  Positions(std::int64_t seq_len, std::int64_t head_dim) {
    const auto frequencies =
        torch::pow(1e4, -torch::arange(0, head_dim, 2).to(torch::kFloat) / head_dim);
    const auto angles = torch::outer(torch::arange(seq_len).to(torch::kFloat), frequencies);
    cos = angles.cos();
    sin = angles.sin();
    mask = torch::full({seq_len, seq_len}, -1e30).triu(1);
  }

  Tensor rotate(const Tensor& x) const {
    const auto half = x.chunk(2, -1);
    return torch::cat({half[0] * cos - half[1] * sin, half[0] * sin + half[1] * cos}, -1);
  }
};

struct Block : torch::nn::Module {
  std::int64_t n_heads;
  torch::nn::Linear q{nullptr}, k{nullptr}, v{nullptr}, o{nullptr};
  torch::nn::Linear gate{nullptr}, up{nullptr}, down{nullptr};
  Tensor input_norm, post_norm;

  Block(std::int64_t d_model, std::int64_t heads, std::int64_t d_ff) : n_heads(heads) {
    const auto linear = [&](const char* name, std::int64_t in, std::int64_t out) {
      return register_module(name,
                             torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(false)));
    };
    q = linear("q", d_model, d_model);
    k = linear("k", d_model, d_model);
    v = linear("v", d_model, d_model);
    o = linear("o", d_model, d_model);
    gate = linear("gate", d_model, d_ff);
    up = linear("up", d_model, d_ff);
    down = linear("down", d_ff, d_model);
    input_norm = register_parameter("input_norm", torch::ones({d_model}));
    post_norm = register_parameter("post_norm", torch::ones({d_model}));
  }

  Tensor forward(Tensor x, const Positions& positions) {  // [B, T, d]
    const auto batch = x.size(0), seq_len = x.size(1), d_model = x.size(2);
    const auto head_dim = d_model / n_heads;
    const auto split = [&](const Tensor& t) {
      return t.view({batch, seq_len, n_heads, head_dim}).transpose(1, 2);
    };
    auto y = rms_norm(x, input_norm);
    const auto queries = positions.rotate(split(q(y)));
    const auto keys = positions.rotate(split(k(y)));
    const auto values = split(v(y));
    const auto scores =
        torch::matmul(queries, keys.transpose(-2, -1)) / std::sqrt(static_cast<double>(head_dim)) +
        positions.mask;
    const auto mixed = torch::matmul(torch::softmax(scores, -1), values);
    x = x + o(mixed.transpose(1, 2).reshape({batch, seq_len, d_model}));
    y = rms_norm(x, post_norm);
    return x + down(torch::silu(gate(y)) * up(y));
  }
};

}  // namespace

int main(int argc, char** argv) {
  Flags flags = parse(argc, argv);
  const auto d_model = flags["d-model"], n_heads = flags["n-heads"];
  const auto vocab_size = flags["vocab-size"];
  const auto seq_len = flags["seq-len"], batch_size = flags["batch-size"];
  if (n_heads < 1 || d_model % (2 * n_heads) != 0 || vocab_size < 1 || flags["steps"] < 1) {
    std::fputs("error: --d-model must be a multiple of 2 x --n-heads, and sizes positive\n",
               stderr);
    return 2;
  }
  if (flags["threads"] > 0) at::set_num_threads(static_cast<int>(flags["threads"]));
  torch::manual_seed(0);
  const auto start_bytes = resident_bytes("VmRSS");

  torch::nn::Embedding embedding(vocab_size, d_model);
  torch::nn::Linear head(torch::nn::LinearOptions(d_model, vocab_size).bias(false));
  Tensor final_norm = torch::ones({d_model}, torch::requires_grad());
  std::vector<std::shared_ptr<Block>> blocks;
  std::vector<Tensor> parameters{final_norm, embedding->weight, head->weight};
  for (std::int64_t i = 0; i < flags["n-layers"]; ++i) {
    blocks.push_back(std::make_shared<Block>(d_model, n_heads, flags["d-ff"]));
    for (auto& p : blocks.back()->parameters()) parameters.push_back(p);
  }
  std::int64_t count = 0;
  for (const auto& p : parameters) count += p.numel();
  torch::optim::AdamW optimizer(parameters, torch::optim::AdamWOptions(3e-4));
  const Positions positions(seq_len, d_model / n_heads);
  const auto inputs = torch::randint(vocab_size, {batch_size, seq_len});
  const auto targets = torch::randint(vocab_size, {batch_size, seq_len});

  std::vector<double> milliseconds;
  double loss_value = 0;
  for (std::int64_t step = 0; step < flags["warmup"] + flags["steps"]; ++step) {
    const auto start = std::chrono::steady_clock::now();
    auto x = embedding(inputs);
    for (auto& block : blocks) x = block->forward(x, positions);
    const auto logits = head(rms_norm(x, final_norm)).view({-1, vocab_size});
    const auto loss = F::cross_entropy(logits, targets.view({-1}));
    optimizer.zero_grad();
    loss.backward();
    torch::nn::utils::clip_grad_norm_(parameters, 1.0);
    optimizer.step();
    loss_value = loss.item<double>();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    if (step >= flags["warmup"]) milliseconds.push_back(took.count());
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  const double median = milliseconds[milliseconds.size() / 2];
  const auto tokens = static_cast<double>(batch_size * seq_len);

  std::printf(
      "{\"program\": \"libtorch\", \"version\": \"%s\", \"blas_core\": \"%s\", \"threads\": %d, "
      "\"n_layers\": %lld, \"d_model\": %lld, \"n_heads\": %lld, \"d_ff\": %lld, "
      "\"vocab_size\": %lld, \"seq_len\": %lld, \"batch_size\": %lld, \"params\": %lld, "
      "\"steps\": %lld, \"tokens_per_s\": %.1f, \"step_ms\": %.3f, \"step_ms_min\": %.3f, "
      "\"step_ms_max\": %.3f, \"start_bytes\": %lld, \"peak_bytes\": %lld, \"loss\": %.6f}\n",
      TORCH_VERSION, openblas_get_corename != nullptr ? openblas_get_corename() : "",
      at::get_num_threads(), static_cast<long long>(flags["n-layers"]),
      static_cast<long long>(d_model), static_cast<long long>(n_heads),
      static_cast<long long>(flags["d-ff"]), static_cast<long long>(vocab_size),
      static_cast<long long>(seq_len), static_cast<long long>(batch_size),
      static_cast<long long>(count), static_cast<long long>(flags["steps"]), tokens / median * 1e3,
      median, milliseconds.front(), milliseconds.back(), static_cast<long long>(start_bytes),
      static_cast<long long>(resident_bytes("VmHWM")), loss_value);
}
