#include "weft/tensor/ops/decode_program.h"

#include "weft/tensor/check.h"

#ifdef WEFT_HAVE_CUDA

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "weft/tensor/graph.h"

#include "cuda/device_context.h"
#include "cuda/launch_check.h"
#include "cuda/probe.h"
#include "ops/decode_recorder.h"

namespace weft {
namespace {

constexpr int64_t kMostInt = std::numeric_limits<int>::max() / 2;

/// Not an error: the step is run in another way.
struct Refused {};

thread_local DecodeRecorder* recording = nullptr;

struct RecordingGuard {
  explicit RecordingGuard(DecodeRecorder* recorder) { recording = recorder; }
  ~RecordingGuard() { recording = nullptr; }
};

bool is_aligned(const Tensor& x) {
  return reinterpret_cast<uintptr_t>(x.raw_data()) % 16 == 0;
}

/// Rows that can be copied in multiples of 16 bytes.
bool has_aligned_rows(const Tensor& x) {
  const auto bytes = static_cast<int64_t>(size_of(x.dtype()));
  return is_aligned(x) && (x.stride(1) == 1 || x.size(1) == 1) &&
         (x.size(0) == 1 || x.stride(0) * bytes % 16 == 0) && x.size(1) * bytes % 16 == 0;
}

int64_t round_up(int64_t value, int64_t granule) {
  return (value + granule - 1) / granule * granule;
}

}  // namespace

DecodeRecorder* DecodeRecorder::current() {
  return recording;
}

void DecodeRecorder::refuse() {
  throw Refused();
}

void DecodeRecorder::keep(const Tensor& tensor) {
  if (tensor.defined()) kept_.push_back(tensor);
}

bool DecodeRecorder::is_stream(const Tensor& x) const {
  return stream_.defined() && x.raw_data() == stream_.raw_data() && x.shape() == stream_.shape();
}

bool DecodeRecorder::is_last(const Tensor& x) const {
  return last_.defined() && x.raw_data() == last_.raw_data() && x.shape() == last_.shape();
}

void DecodeRecorder::set_last(const Tensor& x) {
  require(x.is_contiguous());
  keep(x);
  last_ = x;
}

void DecodeRecorder::token_rows(const Tensor& table, const Tensor& tokens, const Tensor& rows) {
  dtype_ = rows.dtype();
  require(steps_.empty() && !stream_.defined());
  require(dtype_ == DType::bf16 || dtype_ == DType::f16);
  require(table.dtype() == dtype_ || table.dtype() == DType::f32);
  require(rows.size(0) >= 1 && rows.size(0) <= kMostDecodeRows && rows.size(1) % 8 == 0);
  keep(table);
  keep(tokens);
  keep(rows);
  stream_ = rows;
  params_.batch = static_cast<int>(rows.size(0));
  params_.width = static_cast<int>(rows.size(1));
  params_.table = table.raw_data();
  params_.table_is_f32 = table.dtype() == DType::f32;
  params_.table_stride = table.stride(0);
  params_.vocabulary = table.size(0);
  params_.tokens = tokens.data<int64_t>();
}

void DecodeRecorder::product(const FewRowsParams& params) {
  const Tensor& weight = params.weight;
  require(!params.bias.defined() && weight.dtype() == dtype_ && has_aligned_rows(weight));
  require(weight.size(0) <= kMostInt && weight.size(1) <= kMostInt);
  DecodeProductStep step{};
  if (params.gain.defined()) {
    require(is_stream(params.x) && is_aligned(params.gain));
    if (params.residual.defined()) {
      require(is_last(params.residual));
      step.adds = true;
      stream_ = params.sum;
      keep(stream_);
    }
    step.gain = params.gain.data<float>();
    step.eps = static_cast<float>(params.eps);
    keep(params.gain);
  } else {
    require(!params.residual.defined() && is_last(params.x));
  }
  step.weight = weight.raw_data();
  step.weight_stride = weight.stride(0);
  keep(weight);
  if (params.up.defined()) {
    require(params.up.dtype() == dtype_ && has_aligned_rows(params.up) &&
            params.up.shape() == weight.shape());
    step.up = params.up.raw_data();
    step.up_stride = params.up.stride(0);
    keep(params.up);
  }
  step.columns = static_cast<int>(weight.size(0));
  step.length = static_cast<int>(weight.size(1));
  step.inverse_length = 1.0f / static_cast<float>(step.length);
  set_last(params.y);
  DecodeProgramStep& added = steps_.emplace_back();
  added.is_product = true;
  added.product = step;
}

void DecodeRecorder::attention(const DecodeAttentionStep& step) {
  require(!steps_.empty() && is_last(step.packed));
  require(step.dim % 8 == 0 && step.dim <= 128 && step.heads <= kMostInt / 128);
  require(step.keys.dtype() == dtype_ && is_aligned(step.keys) && is_aligned(step.values));
  require(step.keys.is_contiguous() && step.values.is_contiguous());
  require(step.keys.size(2) <= kMostInt);
  require(params_.position == nullptr || params_.position == step.position);
  params_.position = step.position;
  DecodeAttentionPart part{};
  part.keys = const_cast<void*>(step.keys.raw_data());
  part.values = const_cast<void*>(step.values.raw_data());
  part.slots = static_cast<int>(step.keys.size(2));
  if (step.table.defined()) {
    require(step.table.size(0) <= kMostInt);
    part.table = step.table.data<float>();
    part.table_rows = static_cast<int>(step.table.size(0));
  }
  part.heads = static_cast<int>(step.heads);
  part.kv_heads = static_cast<int>(step.kv_heads);
  part.dim = static_cast<int>(step.dim);
  constexpr double kLog2e = 1.4426950408889634074;
  part.scale = static_cast<float>(step.scale * kLog2e);
  for (const Tensor* used : {&step.keys, &step.values, &step.table}) keep(*used);
  set_last(step.o);
  DecodeProgramStep& added = steps_.emplace_back();
  added.is_product = false;
  added.attention = part;
}

void DecodeRecorder::finish(const Tensor& result) {
  require(steps_.size() >= 2 && steps_.back().is_product && is_last(result));
  result_ = result;
  steps_.back().product.y = const_cast<void*>(result.raw_data());
  steps_.back().product.y_stride = result.stride(0);
  plan();
}

/// Shares of blocks, and the memory that they need.
void DecodeRecorder::plan() {
  const cuda::DeviceContext& context = cuda::device_context(device_);
  const auto element = static_cast<int64_t>(size_of(dtype_));
  // Every block has a part in every product, so that none falls back behind the others by more
  // than a layer and what is handed around can be overwritten by turns.
  int64_t blocks = context.multiprocessors();
  params_.query_rows = 1;
  int64_t longest = 0, widest = 0, widest_head = 0;
  for (const DecodeProgramStep& step : steps_) {
    if (step.is_product) {
      const DecodeProductStep& product = step.product;
      blocks = std::min<int64_t>(blocks, (product.columns + 1) / 2);
      longest = std::max<int64_t>(longest, product.length);
      if (product.y == nullptr) widest = std::max<int64_t>(widest, product.columns);
    } else {
      const DecodeAttentionPart& part = step.attention;
      widest = std::max<int64_t>(widest, int64_t{part.heads} * part.dim);
      widest_head = std::max<int64_t>(widest_head, part.dim);
      if (part.heads != part.kv_heads) params_.query_rows = kDecodeQueryRows;
    }
  }
  const int rows = decode_rows_of(params_.batch);
  DecodeProgramLayout& layout = params_.layout;
  constexpr int64_t kMostPieces = 64, kBarrierBytes = 2 * 8 * kMostPieces, kStaticBytes = 1024;
  const auto step_count = static_cast<int64_t>(steps_.size());
  const int64_t step_bytes = step_count * static_cast<int64_t>(sizeof(DecodeProgramStep));
  const int64_t input_stride = decode_row_stride(longest * element);
  int64_t next = kBarrierBytes;
  const auto place = [&](int64_t bytes) {
    const int64_t at = next;
    next = round_up(next + bytes, 128);
    require(next <= kMostInt);
    return static_cast<int>(at);
  };
  layout.steps = place(step_bytes);
  layout.shares = place(step_count * 2 * 4);
  layout.stream = place(int64_t{4} * rows * params_.width);
  layout.gains = place(int64_t{4} * params_.width);
  layout.input = place(rows * input_stride);
  params_.exchange_stride = static_cast<int>(round_up(widest, 4) / 2);
  layout.attention = place(4 * decode_attention_floats(widest_head, params_.query_rows));
  layout.input_stride = static_cast<int>(input_stride / element);
  layout.parts = place(4 * decode_parts_floats(rows));
  layout.ring = place(0);
  const auto all = static_cast<int64_t>(context.properties().sharedMemPerBlockOptin) - kStaticBytes;
  const int64_t piece_bytes = kDecodeTileRows * kDecodeRowStride;
  const int64_t pieces = std::min((all - layout.ring) / piece_bytes, kMostPieces);
  // Those that are multiplied together are there together.
  require(layout.ring <= all && pieces >= kDecodeBatch);
  layout.pieces = static_cast<int>(pieces);
  layout.piece_bytes = static_cast<int>(piece_bytes);
  layout.total = static_cast<int>(layout.ring + pieces * piece_bytes);

  int64_t partial_floats = 0;
  for (DecodeProgramStep& step : steps_) {
    if (step.is_product) continue;
    DecodeAttentionPart& part = step.attention;
    constexpr int64_t kMostSplits = 64;
    const int64_t tiles =
        (part.heads / part.kv_heads + params_.query_rows - 1) / params_.query_rows;
    const int64_t units = params_.batch * part.kv_heads * tiles;
    part.splits = static_cast<int>(std::clamp<int64_t>(blocks / units, 1, kMostSplits));
    // Two for every group of lanes.
    part.keys_per_piece = part.dim <= 64 ? 64 : 32;
    partial_floats = std::max(partial_floats,
                              int64_t{params_.batch} * part.heads * part.splits * (part.dim + 2));
  }
  blocks_ = blocks;
  params_.first_gain = nullptr;
  for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
    if (!step->is_product || step->product.gain == nullptr) continue;
    step->product.next_gain = params_.first_gain;
    params_.first_gain = step->product.gain;
  }

  params_.exchange_copy = params_.batch * params_.exchange_stride;
  const int64_t exchanged = int64_t{kDecodeCopies} * params_.exchange_copy;
  exchange_ = zeros({3, exchanged}, DType::i64, device_);
  partials_ = zeros({std::max<int64_t>(partial_floats, 1)}, DType::i64, device_);
  epoch_ = zeros({1}, DType::i32, device_);
  const auto bytes = static_cast<int64_t>(steps_.size() * sizeof(DecodeProgramStep));
  Tensor on_host = empty({bytes}, DType::u8);
  std::memcpy(on_host.raw_data(), steps_.data(), static_cast<size_t>(bytes));
  device_steps_ = on_host.to(device_);

  const auto pointer = [](const Tensor& tensor) { return const_cast<void*>(tensor.raw_data()); };
  params_.steps = static_cast<const DecodeProgramStep*>(device_steps_.raw_data());
  params_.step_count = static_cast<int>(steps_.size());
  for (int turn = 0; turn < 3; ++turn)
    params_.exchange[turn] =
        static_cast<unsigned long long*>(pointer(exchange_)) + turn * exchanged;
  params_.partials = static_cast<unsigned long long*>(pointer(partials_));
  params_.epoch = static_cast<unsigned*>(pointer(epoch_));
}

void DecodeRecorder::launch() {
  const Stream stream = current_stream(device_);
  for (const Tensor& tensor : kept_) keep_for_capture(tensor);
  if (dtype_ == DType::bf16) {
    run_decode_program<bf16>(params_, static_cast<unsigned>(blocks_), stream);
  } else {
    run_decode_program<f16>(params_, static_cast<unsigned>(blocks_), stream);
  }
}

std::unique_ptr<DecodeProgram> DecodeProgram::record(Device device,
                                                     const std::function<Tensor()>& step) {
  constexpr int kLeastCapability = 90;
  if (!device.is_cuda() || !cuda::may_decode_by_program()) return nullptr;
  WEFT_CHECK(recording == nullptr && !is_capturing(), ConfigError,
             "decode program: cannot be recorded inside another recording or capture");
  if (cuda::code_capability(device) < kLeastCapability) return nullptr;
  auto recorder = std::make_unique<DecodeRecorder>(device);
  try {
    const RecordingGuard guard(recorder.get());
    recorder->finish(step());
  } catch (const Refused&) {
    return nullptr;
  }
  return std::unique_ptr<DecodeProgram>(new DecodeProgram(std::move(recorder)));
}

void DecodeProgram::run() {
  recorder_->launch();
}

const Tensor& DecodeProgram::result() const {
  return recorder_->result();
}

}  // namespace weft

#else

namespace weft {

class DecodeRecorder {};

std::unique_ptr<DecodeProgram> DecodeProgram::record(Device /*device*/,
                                                     const std::function<Tensor()>& /*step*/) {
  return nullptr;
}

void DecodeProgram::run() {}

const Tensor& DecodeProgram::result() const {
  throw_error<NotImplementedError>("decode program: this build has no CUDA");
}

}  // namespace weft

#endif

namespace weft {

DecodeProgram::DecodeProgram(std::unique_ptr<DecodeRecorder> recorder)
    : recorder_(std::move(recorder)) {}

DecodeProgram::~DecodeProgram() = default;

}  // namespace weft
