#include "weft/nn/decode_loop.h"

#include "weft/tensor/check.h"
#include "weft/tensor/pinned.h"

namespace weft::nn {

DecodeLoop::DecodeLoop(DecoderLM& model, DecoderCache& cache, int64_t vocab_size,
                       bool may_be_one_kernel)
    : model_(model),
      cache_(cache),
      first_position_(cache.length()),
      may_be_one_kernel_(may_be_one_kernel) {
  WEFT_CHECK(model.can_decode(cache), ConfigError,
             "decode loop: the model cannot decode by itself with this cache; use prefill()");
  const int64_t all = model.config().vocab_size;
  WEFT_CHECK(vocab_size >= 0 && vocab_size <= all, ConfigError,
             "decode loop: vocab_size must lie in [0, {}], got {}", all, vocab_size);
  vocab_size_ = vocab_size == 0 ? all : vocab_size;
  const Device device = model.device();
  const int64_t batch = cache.batch();
  state_.tokens = zeros({batch}, DType::i64, device);
  state_.position = from_vector<int64_t>({first_position_, 0}, {2}).to(device);
  // Kernels write what is chosen to memory of the host, so that nobody has to fetch it.
  state_.history = device.is_cuda() ? empty_pinned({batch, cache.capacity()}, DType::i64)
                                    : empty({batch, cache.capacity()}, DType::i64);
  position_ = state_.position.slice(0, 0, 1);
  for (int64_t i = 0; i < kRemembered; ++i) done_.push_back(std::make_unique<Event>(device));
}

DecodeLoop::~DecodeLoop() {
  // What the kernels write must not be given back before.
  try {
    if (steps_ > 0) done_[static_cast<size_t>((steps_ - 1) % kRemembered)]->synchronize();
  } catch (...) {  // a failure of the GPU shows again at its next use
  }
}

void DecodeLoop::set_tokens(const std::vector<int64_t>& tokens) {
  const auto count = static_cast<int64_t>(tokens.size());
  WEFT_CHECK(count == state_.tokens.size(0), ShapeError,
             "decode loop: {} sequences need as many tokens, got {}", state_.tokens.size(0), count);
  for (const int64_t token : tokens) {
    WEFT_CHECK(token >= 0 && token < model_.config().vocab_size, IndexError,
               "decode loop: token {} is outside the vocabulary of {}", token,
               model_.config().vocab_size);
  }
  state_.tokens.copy_(from_vector(tokens, {count}));
}

void DecodeLoop::run(bool settled) {
  if (program_) {
    program_->run();
    logits_ = program_->result();
  } else {
    logits_ = compute(settled);
  }
  take_largest(logits_, vocab_size_, state_, settled);
}

Tensor DecodeLoop::compute(bool settled) {
  return model_.decode(state_.tokens, cache_, {.position = position_, .settled = settled});
}

void DecodeLoop::capture() {
  graph_.emplace(model_.device());
  try {
    graph_->capture([&] { run(/*settled=*/true); });
  } catch (const CaptureError&) {  // as the environment may ask for: step by step then
    graph_.reset();
  }
}

void DecodeLoop::step() {
  WEFT_CHECK(cache_.length() < cache_.capacity(), ShapeError,
             "decode loop: the cache is full with {} tokens", cache_.length());
  const Device device = model_.device();
  if (steps_ == 0 && may_be_one_kernel_) {
    program_ = DecodeProgram::record(device, [&] { return compute(/*settled=*/false); });
  }
  // The first step makes what a graph only uses: copies of weights, tables, scratch memory.
  if (steps_ == 1 && device.is_cuda()) capture();
  if (nodes() > 0) {
    graph_->replay();
  } else {
    run(/*settled=*/false);
  }
  done_[static_cast<size_t>(steps_ % kRemembered)]->record(current_stream(device));
  ++steps_;
  cache_.advance(1);
}

std::vector<int64_t> DecodeLoop::chosen(int64_t step) const {
  WEFT_CHECK(step >= 0 && step < steps_, IndexError,
             "decode loop: {} steps were started, so that {} is none of them", steps_, step);
  // The event of an older step has been recorded again, by a later one.
  done_[static_cast<size_t>(step % kRemembered)]->synchronize();
  std::vector<int64_t> tokens;
  const int64_t at = first_position_ + step, length = state_.history.size(1);
  const int64_t* const history = state_.history.data<int64_t>();
  for (int64_t b = 0; b < state_.history.size(0); ++b) tokens.push_back(history[b * length + at]);
  return tokens;
}

}  // namespace weft::nn
