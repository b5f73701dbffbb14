#include <iostream>

#include <fmt/format.h>

#include "weft/io/run_folder.h"
#include "weft/tensor/determinism.h"
#include "weft/tensor/parallel.h"

#include "commands.h"
#include "common/attention_log.h"
#include "common/exit_code.h"
#include "common/options.h"
#include "common/profile.h"
#include "common/signals.h"
#include "common/train_config.h"
#include "common/trainer.h"

namespace weft::apps {

int train(const std::vector<std::string>& arguments) {
  TrainConfig config;
  Options options("train",
                  "Trains a decoder language model and keeps everything of it in a run folder.",
                  "weft train --data kjv.txt --attention full --out-dir runs/a --max-steps 300");
  config.add_to(options);
  if (!options.parse(arguments)) return kDone;
  config.validate();
  if (config.print_config) {
    std::cout << options.to_config(/*by_origin=*/true);
    return kDone;
  }
  const StopSignals signals;
  if (config.threads > 0) set_num_threads(static_cast<int>(config.threads));

  set_deterministic(config.deterministic);

  Console console(config.console);
  const AttentionLog attention(config.attention_backend, console, AttentionLog::Wanted::always);
  RunPlan plan(config);
  plan.describe(console);
  if (config.dry_run) return kDone;
  ProfileRun profile(config.profile, plan.device);
  Trainer trainer(std::move(plan), options.to_config(), console);
  try {
    const int code = trainer.run();
    profile.write(console);
    return code;
  } catch (const NonFiniteError& error) {
    const std::vector<int64_t> kept = io::RunFolder(config.out_dir).checkpoints().steps();
    console.error(fmt::format("{}; {}", error.what(),
                              kept.empty() ? "there is no checkpoint yet"
                                           : fmt::format("the checkpoint of step {} in {} is kept",
                                                         kept.back(), config.out_dir)));
    return kCheckFailed;
  }
}

}  // namespace weft::apps
