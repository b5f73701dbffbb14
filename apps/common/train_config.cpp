#include "common/train_config.h"

#include <algorithm>

#include "weft/tensor/check.h"

#include "common/machine.h"
#include "common/profile.h"

namespace weft::apps {

void TrainConfig::add_to(Options& options) {
  constexpr double kMany = 1LL << 40;
  options.group("Data");
  options
      .add("data", &data,
           "dataset (.h5), text file, or builtin:stories, builtin:recall, builtin:needle")
      .required();
  options.add("tokenizer", &tokenizer, "for text: bytes, char, or a definition (.json)");
  options.add("vocab-size", &vocab_size,
              "rows of the embedding, for padding; 0 means the tokenizer's tokens", {0, 1 << 24});
  options.add("valid-fraction", &valid_fraction, "end of a text that is held out", {0, 0.9});
  options.add("seq-len", &seq_len, "tokens of a training sequence", {1, 1 << 24});
  options.add("batch-size", &batch_size, "sequences of a micro-batch", {1, 1 << 20});
  options.add("grad-accum-steps", &grad_accum_steps, "micro-batches of a step", {1, 1 << 20});
  options.add("seed", &seed, "of initial weights, data order and dropout");
  model.add_to(options);
  optimizer.add_to(options);
  options.group("Run");
  options.add("out-dir", &out_dir, "run folder").short_name('o');
  options.add("max-steps", &max_steps, "length of the run", {1, kMany});
  options.add("log-every", &log_every, "steps between log lines; -1 never", {-1, kMany});
  options.add("eval-every", &eval_every, "steps between held-out losses; -1 at the end alone",
              {-1, kMany});
  options.add("eval-sequences", &eval_sequences, "held-out sequences scored each time; -1 all",
              {-1, kMany});
  options.add("sample-every", &sample_every, "steps between samples of text; -1 never",
              {-1, kMany});
  options.add("sample-prompt", &sample_prompt, "what the samples continue");
  options.add("sample-tokens", &sample_tokens, "length of a sample", {1, 1 << 20});
  options.add("save-every", &save_every, "steps between checkpoints; -1 at the end alone",
              {-1, kMany});
  options.add("keep-checkpoints", &keep_checkpoints, "newest checkpoints kept; -1 all",
              {-1, 1 << 20});
  options
      .add("resume", &resume,
           "auto: continue what the run folder holds; never: start anew; or a checkpoint")
      .not_in_config();
  options.add("report-to", &report_to, "files written besides train.log: csv, tensorboard, html");
  options.group("Machine");
  add_device_options(options, &device, &attention_backend, /*in_config=*/true);
  options.add("threads", &threads, "threads; 0 means OMP_NUM_THREADS, else all cores", {0, 4096});
  options.add("deterministic", &deterministic,
              "same seed, build and device give the same bits; on a GPU at a price in speed");
  options.group("This call");
  options.add("dry-run", &dry_run, "show what would be trained and its memory, then stop")
      .not_in_config();
  options.add("print-config", &print_config, "print every value with its origin, then stop")
      .not_in_config();
  add_profile_option(options, &profile);
  console.add_to(options);
}

void TrainConfig::validate() const {
  WEFT_CHECK(optimizer.min_lr <= optimizer.lr || optimizer.lr_schedule == "constant", ConfigError,
             "--min-lr {} must not exceed --lr {}", optimizer.min_lr, optimizer.lr);
  WEFT_CHECK(optimizer.warmup_steps <= max_steps ||
                 optimizer.warmup_steps == OptimizerOptions().warmup_steps,
             ConfigError, "--warmup-steps {} must not exceed --max-steps {}",
             optimizer.warmup_steps, max_steps);
  for (const auto& [name, period] :
       {std::pair{"log-every", log_every}, std::pair{"eval-every", eval_every},
        std::pair{"sample-every", sample_every}, std::pair{"save-every", save_every}}) {
    WEFT_CHECK(period != 0, ConfigError, "--{} must be at least 1, or -1 for never; got 0", name);
  }
  WEFT_CHECK(eval_sequences != 0, ConfigError,
             "--eval-sequences must be at least 1, or -1 for all; got 0");
  WEFT_CHECK(!out_dir.empty(), ConfigError, "--out-dir must name a folder; it is empty");
  WEFT_CHECK(!data.empty(), ConfigError, "--data must name a file or built-in data; it is empty");
  WEFT_CHECK(keep_checkpoints != 0, ConfigError,
             "--keep-checkpoints must be at least 1, or -1 for all; got 0");
  for (const std::string& target : report_to) {
    constexpr const char* kTargets[] = {"csv", "tensorboard", "html", "none"};
    WEFT_CHECK(std::find(std::begin(kTargets), std::end(kTargets), target) != std::end(kTargets),
               ConfigError, "--report-to '{}' is unknown; allowed are {}", target,
               fmt::join(kTargets, ", "));
  }
  resolve_device(device);
}

}  // namespace weft::apps
