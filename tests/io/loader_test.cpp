#include "weft/io/loader.h"

#include <atomic>
#include <map>
#include <numeric>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/io/permutation.h"
#include "weft/io/tokenizer.h"
#include "weft/tensor/device.h"
#include "weft/tensor/error.h"

#include "temporary_folder.h"

namespace weft::io {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<MemoryTokens> counting_tokens(int64_t size) {
  auto tokens = std::make_shared<MemoryTokens>("counting", std::max<int64_t>(size, 1));
  std::vector<int32_t> ids(static_cast<size_t>(size));
  std::iota(ids.begin(), ids.end(), 0);
  tokens->append(ids);
  return tokens;
}

/// Fails when it is asked for sequence `bad`.
class FailingSource final : public TokenSource {
 public:
  explicit FailingSource(int64_t bad) : bad_(bad) {}
  std::string name() const override { return "failing"; }
  int64_t size() const override { return kEndless; }
  int64_t vocab_size() const override { return 1 << 20; }
  void read(int64_t position, std::span<int32_t> inputs,
            std::span<int32_t> targets) const override {
    if (position == bad_) throw IoError("sequence is damaged");
    std::fill(inputs.begin(), inputs.end(), static_cast<int32_t>(position));
    std::fill(targets.begin(), targets.end(), kIgnoreIndex);
    targets[0] = 1;
  }

 private:
  std::atomic<int64_t> bad_;
};

TEST(Permutation, IsOneToOneForEverySizeAndDiffersByStream) {
  for (const uint64_t size : {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 111, 1000, 4097}) {
    std::vector<bool> hit(size, false);
    const Permutation order(size, 7, 3);
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t to = order.permute(i);
      ASSERT_LT(to, size);
      EXPECT_FALSE(hit[to]);
      hit[to] = true;
    }
    EXPECT_THROW(order.permute(size), IndexError);
  }
  int same_stream = 0;
  int fixed = 0;
  const Permutation a(1000, 7, 3);
  const Permutation b(1000, 7, 4);
  for (uint64_t i = 0; i < 1000; ++i) {
    same_stream += a.permute(i) == b.permute(i);
    fixed += a.permute(i) == i;
  }
  EXPECT_LT(same_stream, 10);
  EXPECT_LT(fixed, 10);
  EXPECT_THROW(Permutation(0, 1, 1), ConfigError);
  const Permutation huge(uint64_t{1} << 62, 1, 1);
  EXPECT_LT(huge.permute((uint64_t{1} << 62) - 1), uint64_t{1} << 62);
}

TEST(Permutation, SpreadsEachPlaceEvenly) {
  // Where index 0 of 16 lands, over 16000 streams: chi-square with 15 degrees of freedom.
  std::vector<int> counts(16, 0);
  for (uint64_t stream = 0; stream < 16000; ++stream)
    ++counts[Permutation(16, 5, stream).permute(0)];
  double chi_square = 0;
  for (const int count : counts) chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi_square, 37.7);  // p = 0.001
}

TEST(MemoryTokens, StoresAndSlices) {
  for (const int64_t vocab : {int64_t{10}, int64_t{65536}, int64_t{65537}, int64_t{1} << 30}) {
    MemoryTokens tokens("mine", vocab);
    const std::vector<int32_t> ids = {0, 3, static_cast<int32_t>(vocab - 1), 1};
    tokens.append(ids);
    tokens.append({});
    EXPECT_EQ(tokens.size(), 4);
    EXPECT_EQ(tokens.slice(0, 4), ids);
    EXPECT_EQ(tokens.slice(2, 1), (std::vector<int32_t>{ids[2]}));
    EXPECT_TRUE(tokens.slice(4, 0).empty());
    EXPECT_THROW(tokens.slice(3, 2), IndexError);
    EXPECT_THROW(tokens.slice(-1, 2), IndexError);
    EXPECT_THROW(tokens.slice(0, INT64_MAX), IndexError);
    EXPECT_THROW(tokens.slice(INT64_MAX, 1), IndexError);
  }
  MemoryTokens tokens("mine", 10);
  tokens.append(std::vector<int32_t>{1, 2});
  EXPECT_THAT(error_of<IndexError>([&] {
                tokens.append(std::vector<int32_t>{3, 10});
              }),
              HasSubstr("mine: token id 10 at position 3 is outside the vocabulary of 10"));
  EXPECT_THROW(tokens.append(std::vector<int32_t>{-1}), IndexError);
  EXPECT_EQ(tokens.size(), 2);
  EXPECT_THROW(MemoryTokens("x", 0), ConfigError);
}

TEST(Loader, TargetsAreTheNextTokens) {
  Loader loader(counting_tokens(1000), {.batch_size = 3, .seq_len = 7});
  for (int step = 0; step < 50; ++step) {
    const Batch batch = loader.next();
    EXPECT_EQ(batch.inputs.shape(), (Shape{3, 7}));
    EXPECT_EQ(batch.inputs.dtype(), DType::i32);
    EXPECT_EQ(batch.step, step);
    EXPECT_EQ(batch.scored, 21);
    const auto inputs = batch.inputs.to_vector<int32_t>();
    const auto targets = batch.targets.to_vector<int32_t>();
    for (size_t i = 0; i < inputs.size(); ++i) {
      EXPECT_EQ(targets[i], inputs[i] + 1);
      if (i % 7 > 0) {
        EXPECT_EQ(inputs[i], inputs[i - 1] + 1);
      }
    }
  }
}

TEST(Loader, AnEpochTakesEveryWindowOnceAndEpochsDiffer) {
  constexpr int64_t kSize = 103;
  constexpr int64_t kLength = 5;
  Loader loader(counting_tokens(kSize), {.batch_size = 1, .seq_len = kLength, .prefetch = 0});
  const int64_t windows = loader.sequences_per_epoch();
  EXPECT_EQ(windows, 19);
  std::set<std::vector<int32_t>> orders;
  std::set<int32_t> phases;
  for (int epoch = 0; epoch < 40; ++epoch) {
    EXPECT_DOUBLE_EQ(loader.epoch(loader.step()), epoch);
    std::vector<int32_t> order;
    std::set<int32_t> seen;
    for (int64_t i = 0; i < windows; ++i) {
      const auto inputs = loader.next().inputs.to_vector<int32_t>();
      seen.insert(inputs.begin(), inputs.end());
      order.push_back(inputs[0]);
    }
    EXPECT_EQ(static_cast<int64_t>(seen.size()), windows * kLength);   // no overlap
    EXPECT_EQ(*seen.rbegin() - *seen.begin() + 1, windows * kLength);  // no hole
    phases.insert(*seen.begin());
    orders.insert(order);
  }
  EXPECT_EQ(orders.size(), 40u);
  EXPECT_GT(phases.size(), 4u);
  EXPECT_EQ(*phases.begin(), 0);
  EXPECT_EQ(*phases.rbegin(), kSize - 1 - windows * kLength);
}

TEST(Loader, OrderDependsOnSeedAndStepAlone) {
  const auto source = counting_tokens(500);
  const LoaderOptions options{.batch_size = 2, .seq_len = 9, .micro_batches = 3, .seed = 11};
  LoaderOptions direct = options;
  direct.prefetch = 0;
  Loader ahead(source, options);
  Loader plain(source, direct);
  std::vector<std::vector<int32_t>> seen;
  for (int i = 0; i < 60; ++i) {
    EXPECT_EQ(ahead.step(), i / 3);
    const Batch a = ahead.next();
    const Batch b = plain.next();
    EXPECT_EQ(a.step, i / 3);
    EXPECT_EQ(a.micro_batch, i % 3);
    EXPECT_EQ(a.inputs.to_vector<int32_t>(), b.inputs.to_vector<int32_t>());
    EXPECT_EQ(a.targets.to_vector<int32_t>(), b.targets.to_vector<int32_t>());
    EXPECT_EQ(plain.batch(i / 3, i % 3).inputs.to_vector<int32_t>(), b.inputs.to_vector<int32_t>());
    seen.push_back(a.inputs.to_vector<int32_t>());
  }
  for (Loader* loader : {&ahead, &plain}) {
    for (const int64_t step : {7, 0, 19}) {
      loader->seek(step);
      EXPECT_EQ(loader->step(), step);
      for (size_t micro = 0; micro < 3; ++micro) {
        EXPECT_EQ(loader->next().inputs.to_vector<int32_t>(),
                  seen[static_cast<size_t>(step) * 3 + micro]);
      }
    }
  }
  // Steps of 1 x 6 rows hold what steps of 3 x 2 rows hold.
  Loader wide(source, {.batch_size = 6, .seq_len = 9, .seed = 11});
  std::vector<int32_t> joined;
  for (size_t micro = 0; micro < 3; ++micro)
    joined.insert(joined.end(), seen[micro].begin(), seen[micro].end());
  EXPECT_EQ(wide.next().inputs.to_vector<int32_t>(), joined);
  LoaderOptions other = options;
  other.seed = 12;
  EXPECT_NE(Loader(source, other).next().inputs.to_vector<int32_t>(), seen[0]);
}

/// In page-locked memory where there is a GPU, which copies it while later batches are made.
TEST(Loader, PinnedBatchesHoldTheSame) {
  const Device gpu{DeviceType::cuda, 0};
  const Device device = is_available(gpu) ? gpu : kCpu;
  const auto source = counting_tokens(5000);
  for (const DType dtype : {DType::i32, DType::i64}) {
    LoaderOptions options{.batch_size = 4, .seq_len = 64, .seed = 3, .dtype = dtype};
    Loader plain(source, options);
    options.pinned = true;
    Loader pinned(source, options);
    std::vector<Tensor> moved;
    for (int i = 0; i < 40; ++i) {
      const Batch batch = pinned.next();
      EXPECT_EQ(batch.inputs.dtype(), dtype);
      EXPECT_TRUE(batch.inputs.device().is_cpu());
      EXPECT_EQ(batch.scored, 4 * 64);
      moved.push_back(batch.inputs.to(device));
      moved.push_back(batch.targets.to(device));
    }
    for (size_t i = 0; i < moved.size(); i += 2) {
      const Batch batch = plain.next();
      EXPECT_EQ(moved[i].to_vector<int64_t>(), batch.inputs.to_vector<int64_t>());
      EXPECT_EQ(moved[i + 1].to_vector<int64_t>(), batch.targets.to_vector<int64_t>());
    }
  }
}

TEST(Loader, SourceOfOneSequenceWorksAndShorterIsRefused) {
  Loader loader(counting_tokens(9), {.batch_size = 2, .seq_len = 8});
  EXPECT_EQ(loader.sequences_per_epoch(), 1);
  EXPECT_EQ(loader.next().inputs.to_vector<int32_t>(),
            (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_THAT(error_of<ConfigError>([] { Loader(counting_tokens(8), {.seq_len = 8}); }),
              HasSubstr("counting has 8 tokens, and a sequence of 8 needs 9"));
  EXPECT_THROW(Loader(counting_tokens(0), {.seq_len = 8}), ConfigError);
}

TEST(Loader, BadOptionsAreRefused) {
  const auto source = counting_tokens(100);
  EXPECT_THROW(Loader(nullptr, {}), ConfigError);
  EXPECT_THROW(Loader(source, {.batch_size = 0, .seq_len = 8}), ConfigError);
  EXPECT_THROW(Loader(source, {.seq_len = 0}), ConfigError);
  EXPECT_THROW(Loader(source, {.seq_len = 8, .micro_batches = 0}), ConfigError);
  EXPECT_THROW(Loader(source, {.seq_len = 8, .prefetch = -1}), ConfigError);
  EXPECT_THROW(Loader(source, {.seq_len = 8, .dtype = DType::f32}), DTypeError);
  Loader loader(source, {.seq_len = 8, .dtype = DType::i64});
  EXPECT_EQ(loader.next().targets.dtype(), DType::i64);
  EXPECT_THROW(loader.seek(-1), ConfigError);
  EXPECT_THROW(loader.batch(0, 1), ConfigError);
  EXPECT_THROW(loader.batch(-1, 0), ConfigError);
}

TEST(Loader, ErrorsOfTheThreadReachTheConsumerAtTheirBatch) {
  for (const int64_t prefetch : {0, 1, 4}) {
    Loader loader(std::make_shared<FailingSource>(7),
                  {.batch_size = 2, .seq_len = 3, .prefetch = prefetch});
    for (int i = 0; i < 3; ++i) EXPECT_EQ(loader.next().scored, 2);
    for (int again = 0; again < 2; ++again) {
      EXPECT_THAT(error_of<IoError>([&] { loader.next(); }), HasSubstr("damaged"));
    }
    EXPECT_EQ(loader.step(), 3);
    loader.seek(4);
    EXPECT_EQ(loader.next().inputs.to_vector<int32_t>()[0], 8);
  }
}

TEST(Loader, StopsCleanlyAtAnyMoment) {
  for (int round = 0; round < 200; ++round) {
    Loader loader(counting_tokens(100), {.batch_size = 1, .seq_len = 4, .prefetch = 3});
    for (int i = 0; i < round % 4; ++i) loader.next();
    if (round % 5 == 0) loader.seek(round);
    Loader moved = std::move(loader);
    const int64_t place = round % 5 == 0 ? round : round % 4;
    EXPECT_EQ(moved.step(), place);
    if (round % 2 == 0) {
      EXPECT_EQ(moved.next().step, place);
    }
  }
}

TEST(EvalLoader, CoversEveryTokenOnce) {
  for (const int64_t size : {2, 3, 8, 9, 10, 17, 100, 103}) {
    for (const int64_t batch_size : {1, 3, 100}) {
      for (const int64_t length : {1, 4, 8, 200}) {
        EvalLoader loader(counting_tokens(size), {.batch_size = batch_size, .seq_len = length});
        for (int pass = 0; pass < 2; ++pass) {
          std::vector<int32_t> covered;
          int64_t scored = 0;
          int64_t batches = 0;
          while (const auto batch = loader.next()) {
            EXPECT_EQ(batch->step, batches++);
            EXPECT_LE(batch->inputs.size(0), batch_size);
            EXPECT_EQ(batch->inputs.size(1), length);
            scored += batch->scored;
            const auto inputs = batch->inputs.to_vector<int32_t>();
            const auto targets = batch->targets.to_vector<int32_t>();
            for (size_t i = 0; i < targets.size(); ++i) {
              if (targets[i] == kIgnoreIndex) {
                EXPECT_EQ(inputs[i], 0);
                continue;
              }
              EXPECT_EQ(targets[i], inputs[i] + 1);
              covered.push_back(targets[i]);
            }
          }
          std::vector<int32_t> expected(static_cast<size_t>(size - 1));
          std::iota(expected.begin(), expected.end(), 1);
          EXPECT_EQ(covered, expected) << size << " " << batch_size << " " << length;
          EXPECT_EQ(scored, size - 1);
          EXPECT_FALSE(loader.next().has_value());
          loader.reset();
        }
      }
    }
  }
}

TEST(EvalLoader, LimitsAndRefuses) {
  EvalLoader loader(counting_tokens(100), {.batch_size = 2, .seq_len = 8, .max_sequences = 3});
  EXPECT_EQ(loader.num_sequences(), 3);
  EXPECT_EQ(loader.next()->inputs.size(0), 2);
  EXPECT_EQ(loader.next()->inputs.size(0), 1);
  EXPECT_FALSE(loader.next());
  EXPECT_THROW(EvalLoader(counting_tokens(1), {.seq_len = 8}), ConfigError);
  EXPECT_THROW(EvalLoader(std::make_shared<FailingSource>(-1), {.seq_len = 8}), ConfigError);
  EvalLoader endless(std::make_shared<FailingSource>(-1),
                     {.batch_size = 2, .seq_len = 8, .max_sequences = 3});
  endless.next();
  EXPECT_EQ(endless.next()->inputs.to_vector<int32_t>()[0], 2);
  EXPECT_FALSE(endless.next());
}

}  // namespace
}  // namespace weft::io
