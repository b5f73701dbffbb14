#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "weft/io/needle.h"
#include "weft/io/recall.h"
#include "weft/io/tokenizer.h"
#include "weft/nn/decoder.h"

namespace weft::apps {

/// A document as tokens, and which of them are answers.
struct ScoredDocument {
  std::vector<int32_t> ids;
  std::vector<size_t> answers;  ///< places in `ids`, ascending, at least 1
};

/// Tokens of a document whose answers are marked character by character. What lies behind the last
/// answer is left out. Answers are tokens of their own, whatever the tokenizer joins elsewhere.
/// Throws ConfigError naming `suite` where the tokenizer cannot write the text.
ScoredDocument encode_scored(const std::string& suite, const std::string& text,
                             const std::string& is_answer, const io::Tokenizer& tokenizer);

struct AnswerScore {
  int64_t documents = 0;
  int64_t solved = 0;  ///< documents with all answers right
  int64_t answers = 0;
  int64_t right = 0;

  double answer_accuracy() const { return ratio(right, answers); }
  double document_accuracy() const { return ratio(solved, documents); }

 private:
  static double ratio(int64_t part, int64_t all) {
    return all == 0 ? 0 : static_cast<double>(part) / static_cast<double>(all);
  }
};

/// Counts the answers that the model finds most likely, given everything before them. All answers
/// of a document take one forward pass. A document is solved in this way exactly when greedy
/// generation from the place before its (contiguous) answer writes that answer: up to the first
/// mistake both see the same tokens.
AnswerScore score_answers(nn::DecoderLM& model, const std::vector<ScoredDocument>& documents,
                          int64_t batch_size);

/// One cell of a retrieval suite.
struct RetrievalCell {
  int64_t pairs = 0;  ///< recall
  double depth = 0;   ///< needle, percent
  int64_t length = 0;
  AnswerScore score{};
};

struct RetrievalOptions {
  std::vector<int64_t> lengths;  ///< characters of a document
  int64_t documents = 32;        ///< in each cell
  int64_t batch_size = 16;
  uint64_t seed = 0;  ///< other documents for each; none is ever trained on
};

/// Recall with exactly so many pairs at each length. A length of 0 takes the filler that `shape`
/// says; otherwise filler, at most shape.gap of it between pairs and queries, makes up the length.
/// Cells that do not fit are left out. Throws ConfigError when none fits.
std::vector<RetrievalCell> evaluate_recall(nn::DecoderLM& model, const io::Tokenizer& tokenizer,
                                           const io::RecallOptions& shape,
                                           const std::vector<int64_t>& pairs,
                                           const RetrievalOptions& options);

/// One passkey asked for, at each depth and length. Throws ConfigError when a length is too short.
std::vector<RetrievalCell> evaluate_needle(nn::DecoderLM& model, const io::Tokenizer& tokenizer,
                                           const io::NeedleOptions& shape,
                                           const std::vector<double>& depths,
                                           const RetrievalOptions& options);

}  // namespace weft::apps
