#pragma once

#include <string>
#include <vector>

namespace weft::apps {

/// The subcommands of `weft bench`, as in commands.h.
int bench_step(const std::vector<std::string>& arguments);
int bench_decode(const std::vector<std::string>& arguments);
int bench_attention_layers(const std::vector<std::string>& arguments);

}  // namespace weft::apps
