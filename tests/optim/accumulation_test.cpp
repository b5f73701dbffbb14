// The contract of gradient accumulation: micro-batches weighed by their share of the rows give the
// step of the whole batch.
#include <memory>

#include "weft/autograd/functions/activation.h"
#include "weft/autograd/functions/arithmetic.h"
#include "weft/autograd/functions/linear.h"
#include "weft/optim/adamw.h"
#include "weft/optim/clip.h"
#include "weft/optim/muon.h"

#include "optim_test_support.h"

namespace weft::optim {
namespace {

using autograd::Variable;

/// A two-layer regression.
NamedParameters make_model() {
  return {make_parameter("up.weight", random_tensor({7, 5}, DType::f64, 1)),
          make_parameter("up.bias", random_tensor({7}, DType::f64, 2)),
          make_parameter("down.weight", random_tensor({3, 7}, DType::f64, 3))};
}

struct Batch {
  Tensor inputs;   // [rows, 5]
  Tensor targets;  // [rows, 3]

  Batch rows(int64_t begin, int64_t end) const {
    return {inputs.slice(0, begin, end), targets.slice(0, begin, end)};
  }
  int64_t size() const { return inputs.size(0); }
};

Batch make_batch(int step) {
  const auto seed = 10 + 2 * static_cast<uint64_t>(step);
  return {random_tensor({8, 5}, DType::f64, seed), random_tensor({8, 3}, DType::f64, seed + 1)};
}

/// Adds the gradients of factor * sum of the squared errors.
void backward_of_sum(const NamedParameters& model, const Batch& batch, double factor) {
  const Variable hidden = autograd::silu(
      autograd::linear(Variable(batch.inputs), model[0].parameter, model[1].parameter));
  const Variable error =
      autograd::sub(autograd::linear(hidden, model[2].parameter), Variable(batch.targets));
  autograd::mul(error, error).backward(full({batch.size(), 3}, factor, DType::f64));
}

/// Adds the gradients of factor * mean over the rows.
void backward_of_mean(const NamedParameters& model, const Batch& batch, double factor) {
  backward_of_sum(model, batch, factor / static_cast<double>(batch.size()));
}

/// Runs 10 clipped steps; accumulate(model, batch) returns the grad_scale that belongs to it.
template <class Accumulate>
NamedParameters train(bool muon, const Accumulate& accumulate) {
  const NamedParameters model = make_model();
  std::unique_ptr<Optimizer> optimizer;
  if (muon) {
    optimizer = std::make_unique<Muon>(split_for_muon(model));
  } else {
    optimizer = std::make_unique<AdamW>(default_groups(model));
  }
  for (int step = 0; step < 10; ++step) {
    const double scale = accumulate(model, make_batch(step));
    optimizer->step(0.01, scale * clip_scale(scale * grad_norm(model), 0.5));
    optimizer->zero_grad();
  }
  return model;
}

class AccumulationTest : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Optimizers, AccumulationTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "muon" : "adamw"; });

TEST_P(AccumulationTest, MicroBatchesEqualTheLargeBatch) {
  const NamedParameters whole =
      train(GetParam(), [](const NamedParameters& model, const Batch& batch) {
        backward_of_mean(model, batch, 1);
        return 1.0;
      });
  const NamedParameters halves =
      train(GetParam(), [](const NamedParameters& model, const Batch& batch) {
        backward_of_mean(model, batch.rows(0, 4), 0.5);
        backward_of_mean(model, batch.rows(4, 8), 0.5);
        return 1.0;
      });
  const NamedParameters shares =
      train(GetParam(), [](const NamedParameters& model, const Batch& batch) {
        backward_of_mean(model, batch.rows(0, 2), 2 / 8.0);
        backward_of_mean(model, batch.rows(2, 3), 1 / 8.0);
        backward_of_mean(model, batch.rows(3, 8), 5 / 8.0);
        return 1.0;
      });
  const NamedParameters sums =
      train(GetParam(), [](const NamedParameters& model, const Batch& batch) {
        backward_of_sum(model, batch.rows(0, 2), 1);
        backward_of_sum(model, batch.rows(2, 8), 1);
        return 1 / 8.0;
      });
  const NamedParameters unweighted =
      train(GetParam(), [](const NamedParameters& model, const Batch& batch) {
        backward_of_mean(model, batch.rows(0, 2), 0.5);
        backward_of_mean(model, batch.rows(2, 8), 0.5);
        return 1.0;
      });
  double deviation = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    const std::vector<double> expected = values_of(whole[i]);
    expect_near(values_of(halves[i]), expected, 1e-12, whole[i].name);
    expect_near(values_of(shares[i]), expected, 1e-12, whole[i].name);
    expect_near(values_of(sums[i]), expected, 1e-12, whole[i].name);
    const std::vector<double> other = values_of(unweighted[i]);
    for (size_t k = 0; k < other.size(); ++k)
      deviation = std::max(deviation, std::abs(other[k] - expected[k]));
  }
  EXPECT_GT(deviation, 1e-4);  // means of unequal micro-batches are another batch
}

}  // namespace
}  // namespace weft::optim
