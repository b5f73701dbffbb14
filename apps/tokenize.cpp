#include "weft/io/tokenize.h"

#include <filesystem>
#include <system_error>

#include <fmt/format.h>

#include "weft/io/text.h"

#include "commands.h"
#include "common/console.h"
#include "common/exit_code.h"
#include "common/options.h"

namespace weft::apps {

int tokenize(const std::vector<std::string>& arguments) {
  std::vector<std::string> inputs;
  std::string out;
  io::TokenizeOptions settings;
  Console::Settings messages;
  Options options("tokenize", "Turns text into a token dataset with train and valid splits.",
                  "weft tokenize --input kjv.txt --tokenizer bytes --out kjv.h5", "[FILE|DIR ...]");
  options
      .add("input", &inputs,
           "text files, JSONL files or folders (besides those given without a flag)")
      .not_in_config();
  options.add("out", &out, "dataset to write (.h5)").short_name('o').required().not_in_config();
  options.add("tokenizer", &settings.tokenizer, "bytes, char, or a definition (.json)")
      .not_in_config();
  options
      .add("valid-fraction", &settings.valid_fraction, "part of the text that is held out",
           {0, 0.9})
      .not_in_config();
  options.add("field", &settings.field, "member of each JSONL object that holds the text")
      .not_in_config();
  messages.add_to(options);
  if (!options.parse(arguments)) return kDone;
  settings.inputs.assign(inputs.begin(), inputs.end());
  settings.inputs.insert(settings.inputs.end(), options.positional().begin(),
                         options.positional().end());
  if (settings.inputs.empty())
    throw UsageError("--input is required; weft tokenize --help lists all");

  for (const auto& input : io::list_text_files(settings.inputs)) {
    std::error_code other;  // a target that is not there yet is another file
    if (std::filesystem::equivalent(input, out, other))
      throw UsageError(fmt::format("--out: '{}' is one of the inputs", out));
  }

  Console console(messages);
  const io::TokenizeSummary summary = io::tokenize_to_dataset(settings, out);
  console.info(fmt::format(
      "{}: {} documents, {} of text, {} tokenizer of {} tokens, {} tokens to train on, {} held out",
      out, summary.documents, format_bytes(static_cast<double>(summary.bytes)),
      summary.tokenizer->name(), summary.tokenizer->vocab_size(), summary.train_tokens,
      summary.valid_tokens));
  return kDone;
}

}  // namespace weft::apps
