#pragma once

#include <string>
#include <vector>

namespace weft::apps {

/// The subcommands. Each takes the arguments after its name and returns an exit code; it may throw
/// UsageError (exit code 2) and weft::Error (exit code 1), which main() turns into one line.
int tokenize(const std::vector<std::string>& arguments);
int train(const std::vector<std::string>& arguments);
int evaluate(const std::vector<std::string>& arguments);
int generate(const std::vector<std::string>& arguments);
int inspect(const std::vector<std::string>& arguments);
int report(const std::vector<std::string>& arguments);
int bench(const std::vector<std::string>& arguments);
int attention(const std::vector<std::string>& arguments);

}  // namespace weft::apps
