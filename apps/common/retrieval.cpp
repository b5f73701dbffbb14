#include "common/retrieval.h"

#include <algorithm>

#include "weft/io/builtin_data.h"
#include "weft/tensor/check.h"

namespace weft::apps {
namespace {

/// Bytes of the UTF-8 character that starts with this byte.
size_t character_bytes(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

void score_batch(nn::DecoderLM& model, const ScoredDocument* first, size_t count,
                 AnswerScore& score) {
  size_t length = 0;
  for (size_t i = 0; i < count; ++i) length = std::max(length, first[i].ids.size());
  // Shorter ones end in padding, which no earlier place sees.
  std::vector<int32_t> tokens(count * length, 0);
  std::vector<int64_t> rows;
  for (size_t i = 0; i < count; ++i) {
    std::copy(first[i].ids.begin(), first[i].ids.end(),
              tokens.begin() + static_cast<std::ptrdiff_t>(i * length));
    for (const size_t answer : first[i].answers)
      rows.push_back(static_cast<int64_t>(i * length + answer - 1));
  }
  const Tensor logits = model.logits_at(
      from_vector(tokens, {static_cast<int64_t>(count), static_cast<int64_t>(length)}),
      from_vector(rows, {static_cast<int64_t>(rows.size())}));
  const std::vector<float> values = logits.to_vector<float>();
  const auto width = static_cast<size_t>(logits.size(1));
  auto row = values.begin();
  for (size_t i = 0; i < count; ++i) {
    bool solved = true;
    for (const size_t answer : first[i].answers) {
      const auto end = row + static_cast<std::ptrdiff_t>(width);
      const bool right = std::max_element(row, end) - row == first[i].ids[answer];
      row = end;
      score.right += right;
      solved = solved && right;
    }
    score.answers += static_cast<int64_t>(first[i].answers.size());
    score.solved += solved;
    ++score.documents;
  }
}

uint64_t seed_of(const RetrievalOptions& options) {
  return io::held_out_seed() + options.seed;
}

}  // namespace

ScoredDocument encode_scored(const std::string& suite, const std::string& text,
                             const std::string& is_answer, const io::Tokenizer& tokenizer) {
  ScoredDocument document;
  size_t position = 0;
  const size_t last = is_answer.rfind('1');
  WEFT_CHECK(last != std::string::npos, ConfigError, "eval: a document of {} asks nothing", suite);
  for (size_t i = 0; i <= last;) {
    size_t bytes = 0;
    const char kind = is_answer[i];
    for (; i <= last && is_answer[i] == kind; ++i) bytes += character_bytes(text[position + bytes]);
    std::vector<int32_t> ids;
    try {
      ids = tokenizer.encode(std::string_view(text).substr(position, bytes));
    } catch (const IoError& error) {
      throw_error<ConfigError>(
          "eval: --suite {} does not fit a run with this {} tokenizer of {} tokens: {}", suite,
          tokenizer.name(), tokenizer.vocab_size(), error.what());
    }
    for (const int32_t id : ids) {
      if (kind == '1') document.answers.push_back(document.ids.size());
      document.ids.push_back(id);
    }
    position += bytes;
  }
  return document;
}

AnswerScore score_answers(nn::DecoderLM& model, const std::vector<ScoredDocument>& documents,
                          int64_t batch_size) {
  const nn::EvalModeGuard eval_mode(model);
  AnswerScore score;
  const auto most = static_cast<size_t>(std::max<int64_t>(1, batch_size));
  for (size_t start = 0; start < documents.size(); start += most)
    score_batch(model, &documents[start], std::min(most, documents.size() - start), score);
  return score;
}

std::vector<RetrievalCell> evaluate_recall(nn::DecoderLM& model, const io::Tokenizer& tokenizer,
                                           const io::RecallOptions& shape,
                                           const std::vector<int64_t>& pairs,
                                           const RetrievalOptions& options) {
  std::vector<RetrievalCell> cells;
  int64_t shortest = 0;
  for (const int64_t count : pairs) {
    for (const int64_t length : options.lengths) {
      io::RecallOptions document = shape;
      document.pairs = count;
      document.keys = std::max(shape.keys, count);
      document.exact = true;
      if (length > 0) {
        const int64_t filler = length - io::recall_length(count);
        shortest = shortest == 0 ? length - filler : std::min(shortest, length - filler);
        if (filler < 0) continue;
        document.gap = std::min(shape.gap, filler);
        document.spread = filler - document.gap;
      } else {
        document.spread = std::max<int64_t>(0, shape.spread);
      }
      std::vector<ScoredDocument> documents;
      int64_t characters = 0;
      for (int64_t i = 0; i < options.documents; ++i) {
        const io::RecallDocument made =
            io::recall_document(seed_of(options), static_cast<uint64_t>(i), document);
        documents.push_back(encode_scored("recall", made.text, made.is_answer, tokenizer));
        characters = made.length();
        // Up to the line feed at its end.
        WEFT_CHECK(documents.back().ids.size() + 1 == made.is_answer.size(), ConfigError,
                   "eval: --suite recall needs a tokenizer with one token a character; this {} "
                   "tokenizer has others",
                   tokenizer.name());
      }
      cells.push_back({.pairs = count,
                       .length = characters,
                       .score = score_answers(model, documents, options.batch_size)});
    }
  }
  WEFT_CHECK(!cells.empty(), ConfigError,
             "eval: no length holds a document of recall; the shortest takes {}", shortest);
  return cells;
}

std::vector<RetrievalCell> evaluate_needle(nn::DecoderLM& model, const io::Tokenizer& tokenizer,
                                           const io::NeedleOptions& shape,
                                           const std::vector<double>& depths,
                                           const RetrievalOptions& options) {
  std::vector<RetrievalCell> cells;
  for (const int64_t length : options.lengths) {
    for (const double depth : depths) {
      io::NeedleOptions document = shape;
      document.asked = 1;
      document.depth = depth;
      std::vector<ScoredDocument> documents;
      for (int64_t i = 0; i < options.documents; ++i) {
        const io::NeedleDocument made =
            io::needle_document(seed_of(options), static_cast<uint64_t>(i), length, document);
        documents.push_back(encode_scored("needle", made.text, made.is_answer, tokenizer));
      }
      cells.push_back({.depth = depth,
                       .length = length,
                       .score = score_answers(model, documents, options.batch_size)});
    }
  }
  return cells;
}

}  // namespace weft::apps
