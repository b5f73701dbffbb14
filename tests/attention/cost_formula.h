#pragma once

#include <cctype>
#include <map>
#include <stdexcept>
#include <string>

#include "weft/attention/mechanism.h"

namespace weft::attention::testing {

/// The value of a cost formula: numbers, names, + - * / and parentheses.
class CostFormulaValue {
 public:
  CostFormulaValue(std::string formula, std::map<std::string, double> symbols)
      : text_(std::move(formula)), symbols_(std::move(symbols)) {}

  double operator()() {
    const double value = sum();
    if (at_ != text_.size()) fail();
    return value;
  }

 private:
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  [[noreturn]] void fail() const {
    throw std::runtime_error("cannot read \"" + text_ + "\" at " + std::to_string(at_));
  }

  double sum() {
    double value = product();
    while (peek() == '+' || peek() == '-') value += take('+') ? product() : (++at_, -product());
    return value;
  }
  double product() {
    double value = factor();
    while (peek() == '*' || peek() == '/') {
      if (take('*')) {
        value *= factor();
      } else {
        ++at_;
        value /= factor();
      }
    }
    return value;
  }
  double factor() {
    if (take('(')) {
      const double value = sum();
      if (!take(')')) fail();
      return value;
    }
    const size_t begin = at_;
    while (std::isalnum(static_cast<unsigned char>(peek())) != 0) ++at_;
    const std::string word = text_.substr(begin, at_ - begin);
    if (word.empty()) fail();
    if (std::isdigit(static_cast<unsigned char>(word[0])) != 0) return std::stod(word);
    const auto symbol = symbols_.find(word);
    if (symbol == symbols_.end()) fail();
    return symbol->second;
  }

  std::string text_;
  std::map<std::string, double> symbols_;
  size_t at_ = 0;
};

/// The value of the formula that the mechanism gives for `of`.
inline double cost_by_formula(const MechanismInfo& mechanism, const std::string& of,
                              const std::map<std::string, double>& symbols) {
  for (const CostFormula& cost : mechanism.costs) {
    if (cost.of == of) return CostFormulaValue(cost.formula, symbols)();
  }
  throw std::runtime_error(mechanism.name + " has no formula for " + of);
}

}  // namespace weft::attention::testing
