#include "common/data.h"

#include <fmt/format.h>

#include "weft/io/builtin_data.h"
#include "weft/io/token_dataset.h"
#include "weft/io/tokenize.h"

#include "common/console.h"

namespace weft::apps {
namespace {

std::string describe(const std::string& name, const io::Tokenizer& tokenizer, int64_t train,
                     int64_t valid) {
  return fmt::format("{}, {} tokenizer of {} tokens, {} to train on, {} held out", name,
                     tokenizer.name(), tokenizer.vocab_size(),
                     format_count(static_cast<double>(train)),
                     format_count(static_cast<double>(valid)));
}

/// Null where nothing is held out: a prediction takes two tokens.
std::shared_ptr<const io::TokenSource> if_scorable(std::shared_ptr<const io::TokenSource> source) {
  return source->size() > 1 ? source : nullptr;
}

}  // namespace

Data open_data(const std::string& data, const std::string& tokenizer, double valid_fraction,
               uint64_t seed) {
  if (io::is_builtin(data)) {
    const io::BuiltinData builtin = io::make_builtin(data, seed);
    return {fmt::format("{}, generated, {} tokenizer of {} tokens", data, builtin.tokenizer->name(),
                        builtin.tokenizer->vocab_size()),
            builtin.tokenizer, builtin.train, builtin.valid};
  }
  if (io::is_hdf5_file(data)) {
    const io::TokenDataset dataset(data);
    return {describe(data, *dataset.tokenizer(), dataset.train()->size(), dataset.valid()->size()),
            dataset.tokenizer(), dataset.train(), if_scorable(dataset.valid())};
  }
  const io::TokenizedText text = io::tokenize_to_memory(
      {.inputs = {data}, .tokenizer = tokenizer, .valid_fraction = valid_fraction});
  return {describe(data, *text.summary.tokenizer, text.train->size(), text.valid->size()),
          text.summary.tokenizer, text.train, if_scorable(text.valid)};
}

}  // namespace weft::apps
