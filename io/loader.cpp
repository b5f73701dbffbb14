#include "weft/io/loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <span>
#include <stop_token>
#include <thread>
#include <utility>

#include "weft/io/permutation.h"
#include "weft/io/tokenizer.h"
#include "weft/tensor/check.h"
#include "weft/tensor/pinned.h"

#include "random_streams.h"

namespace weft::io {
namespace {

void check_common(const char* op, const TokenSource* source, int64_t batch_size, int64_t seq_len,
                  DType dtype) {
  WEFT_CHECK(source != nullptr, ConfigError, "{}: no source of tokens given", op);
  WEFT_CHECK(batch_size >= 1, ConfigError, "{}: batch size must be at least 1, got {}", op,
             batch_size);
  WEFT_CHECK(seq_len >= 1, ConfigError, "{}: sequence length must be at least 1, got {}", op,
             seq_len);
  WEFT_CHECK(dtype == DType::i32 || dtype == DType::i64, DTypeError,
             "{}: makes ids of i32 or i64, not {}", op, dtype);
}

/// Token ids of one batch, filled row by row.
class BatchBuilder {
 public:
  BatchBuilder(int64_t rows, int64_t seq_len, bool pinned = false)
      : seq_len_(seq_len),
        pinned_(pinned),
        inputs_(empty({rows, seq_len}, DType::i32)),
        targets_(empty({rows, seq_len}, DType::i32)) {
    std::fill_n(inputs_.data<int32_t>(), inputs_.numel(), 0);
    std::fill_n(targets_.data<int32_t>(), targets_.numel(), kIgnoreIndex);
  }

  std::span<int32_t> inputs(int64_t row, int64_t count) {
    return {inputs_.data<int32_t>() + row * seq_len_, static_cast<size_t>(count)};
  }
  std::span<int32_t> targets(int64_t row, int64_t count) {
    return {targets_.data<int32_t>() + row * seq_len_, static_cast<size_t>(count)};
  }

  Batch finish(DType dtype, int64_t step, int64_t micro_batch) const {
    const int32_t* first = targets_.data<int32_t>();
    const auto scored = std::count_if(first, first + targets_.numel(),
                                      [](int32_t target) { return target != kIgnoreIndex; });
    return {finished(inputs_, dtype), finished(targets_, dtype), scored, step, micro_batch};
  }

 private:
  Tensor finished(const Tensor& ids, DType dtype) const {
    if (!pinned_) return ids.to(dtype);
    Tensor result = empty_pinned(ids.shape(), dtype);
    result.copy_(ids);
    return result;
  }

  int64_t seq_len_;
  bool pinned_;
  Tensor inputs_;
  Tensor targets_;
};

}  // namespace

/// A place in the order of batches, and a thread that runs ahead of it.
class Loader::Impl {
 public:
  Impl(std::shared_ptr<const TokenSource> source, const LoaderOptions& options)
      : source_(std::move(source)), options_(options) {
    check_common("loader", source_.get(), options.batch_size, options.seq_len, options.dtype);
    WEFT_CHECK(options.micro_batches >= 1, ConfigError,
               "loader: micro-batches must be at least 1, got {}", options.micro_batches);
    WEFT_CHECK(options.prefetch >= 0, ConfigError, "loader: prefetch must be at least 0, got {}",
               options.prefetch);
    if (source_->size() == kEndless) return;
    const int64_t size = source_->size();
    WEFT_CHECK(size > options.seq_len, ConfigError,
               "loader: {} has {} tokens, and a sequence of {} needs {}", source_->name(), size,
               options.seq_len, options.seq_len + 1);
    // One window less than fits, so that the phase has room.
    windows_ = std::max<int64_t>(1, (size - 1) / options.seq_len - 1);
    phases_ = size - windows_ * options.seq_len;
  }

  const TokenSource& source() const { return *source_; }
  const LoaderOptions& options() const { return options_; }
  int64_t windows() const { return windows_; }
  int64_t step() const { return next_ / options_.micro_batches; }

  Batch batch(int64_t step, int64_t micro_batch) const {
    const int64_t first = (step * options_.micro_batches + micro_batch) * options_.batch_size;
    BatchBuilder builder(options_.batch_size, options_.seq_len, options_.pinned);
    for (int64_t row = 0; row < options_.batch_size; ++row) {
      source_->read(position_of(first + row), builder.inputs(row, options_.seq_len),
                    builder.targets(row, options_.seq_len));
    }
    return builder.finish(options_.dtype, step, micro_batch);
  }

  Batch next() {
    if (options_.prefetch == 0) {
      Batch result = numbered(next_);
      ++next_;
      return result;
    }
    if (!thread_.joinable()) start();
    Slot slot;
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [this] { return !queue_.empty(); });
      slot = std::move(queue_.front());
      queue_.pop_front();
    }
    room_.notify_one();
    if (slot.error) {
      stop();  // the thread ended; a later call tries again from the same place
      std::rethrow_exception(slot.error);
    }
    ++next_;
    return std::move(slot.batch);
  }

  void seek(int64_t step) {
    stop();
    next_ = step * options_.micro_batches;
  }

  ~Impl() { stop(); }

 private:
  struct Slot {
    Batch batch;
    std::exception_ptr error;
  };

  /// Where sequence `number` of the whole training starts in the source.
  int64_t position_of(int64_t number) const {
    if (windows_ == kEndless) return number;
    const auto epoch = static_cast<uint64_t>(number / windows_);
    const Permutation order(static_cast<uint64_t>(windows_), options_.seed,
                            subsequence(RandomStream::window_order, epoch));
    const uint64_t window = order.permute(static_cast<uint64_t>(number % windows_));
    const uint64_t phase =
        scale_to(random_word(options_.seed, 0, subsequence(RandomStream::window_phase, epoch)),
                 static_cast<uint64_t>(phases_));
    return static_cast<int64_t>(phase) + static_cast<int64_t>(window) * options_.seq_len;
  }

  Batch numbered(int64_t number) const {
    return batch(number / options_.micro_batches, number % options_.micro_batches);
  }

  void start() {
    thread_ = std::jthread([this, number = next_](const std::stop_token& stop) mutable {
      for (;; ++number) {
        Slot slot;
        try {
          slot.batch = numbered(number);
        } catch (...) {
          slot.error = std::current_exception();
        }
        const bool failed = slot.error != nullptr;
        {
          std::unique_lock lock(mutex_);
          const auto has_room = [this] {
            return static_cast<int64_t>(queue_.size()) < options_.prefetch;
          };
          if (!room_.wait(lock, stop, has_room)) return;
          queue_.push_back(std::move(slot));
        }
        ready_.notify_one();
        if (failed) return;
      }
    });
  }

  void stop() {
    if (thread_.joinable()) {
      thread_.request_stop();
      thread_.join();
    }
    queue_.clear();
  }

  std::shared_ptr<const TokenSource> source_;
  LoaderOptions options_;
  int64_t windows_ = kEndless;
  int64_t phases_ = 1;
  int64_t next_ = 0;  // batch that next() gives, counted over all steps

  std::mutex mutex_;
  std::condition_variable ready_;
  std::condition_variable_any room_;
  std::deque<Slot> queue_;
  std::jthread thread_;
};

Loader::Loader(std::shared_ptr<const TokenSource> source, const LoaderOptions& options)
    : impl_(std::make_unique<Impl>(std::move(source), options)) {}
Loader::~Loader() = default;
Loader::Loader(Loader&&) noexcept = default;
Loader& Loader::operator=(Loader&&) noexcept = default;

const LoaderOptions& Loader::options() const {
  return impl_->options();
}

Batch Loader::next() {
  return impl_->next();
}

void Loader::seek(int64_t step) {
  WEFT_CHECK(step >= 0, ConfigError, "loader: step must be at least 0, got {}", step);
  impl_->seek(step);
}

int64_t Loader::step() const {
  return impl_->step();
}

Batch Loader::batch(int64_t step, int64_t micro_batch) const {
  WEFT_CHECK(step >= 0 && micro_batch >= 0 && micro_batch < options().micro_batches, ConfigError,
             "loader: no micro-batch {} of step {}; a step has {}", micro_batch, step,
             options().micro_batches);
  return impl_->batch(step, micro_batch);
}

int64_t Loader::sequences_per_epoch() const {
  return impl_->windows();
}

double Loader::epoch(int64_t step) const {
  if (impl_->windows() == kEndless) return 0;
  return static_cast<double>(step * options().micro_batches * options().batch_size) /
         static_cast<double>(impl_->windows());
}

EvalLoader::EvalLoader(std::shared_ptr<const TokenSource> source, const EvalLoaderOptions& options)
    : source_(std::move(source)), options_(options) {
  check_common("evaluation loader", source_.get(), options.batch_size, options.seq_len,
               options.dtype);
  const int64_t size = source_->size();
  if (size == kEndless) {
    WEFT_CHECK(options.max_sequences >= 1, ConfigError,
               "evaluation loader: {} is endless; say how many sequences to take", source_->name());
    sequences_ = options.max_sequences;
    return;
  }
  WEFT_CHECK(size >= 2, ConfigError,
             "evaluation loader: {} has {} tokens, and at least 2 are needed", source_->name(),
             size);
  sequences_ = (size - 2) / options.seq_len + 1;  // size - 1 targets, rounded up
  if (options.max_sequences >= 0) sequences_ = std::min(sequences_, options.max_sequences);
}

std::optional<Batch> EvalLoader::next() {
  const int64_t rows = std::min(options_.batch_size, sequences_ - done_);
  if (rows <= 0) return std::nullopt;
  BatchBuilder builder(rows, options_.seq_len);
  const bool endless = source_->size() == kEndless;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t sequence = done_ + row;
    const int64_t position = endless ? sequence : sequence * options_.seq_len;
    const int64_t count =
        endless ? options_.seq_len : std::min(options_.seq_len, source_->size() - 1 - position);
    source_->read(position, builder.inputs(row, count), builder.targets(row, count));
  }
  const int64_t number = done_ / options_.batch_size;
  done_ += rows;
  return builder.finish(options_.dtype, number, 0);
}

}  // namespace weft::io
