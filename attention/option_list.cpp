#include "option_list.h"

#include <utility>

namespace weft::attention {

OptionInfo integer_option(const char* name, const char* value, const char* help, double min,
                          double max) {
  return {.name = name,
          .kind = OptionKind::integer,
          .default_value = value,
          .help = help,
          .min = min,
          .max = max};
}

OptionInfo boolean_option(const char* name, const char* value, const char* help) {
  return {.name = name, .kind = OptionKind::boolean, .default_value = value, .help = help};
}

OptionInfo choice_option(const char* name, const char* value, const char* help,
                         std::vector<std::string> choices) {
  return {.name = name,
          .kind = OptionKind::choice,
          .default_value = value,
          .help = help,
          .choices = std::move(choices)};
}

OptionInfo window_option(const char* value) {
  return integer_option("window", value, "tokens that a token sees, itself included", 1);
}

OptionInfo head_dim_option() {
  return integer_option("head-dim", "0", "width of a head; 0 means d-model / n-heads", 0, 1 << 16);
}

OptionInfo rope_option() {
  return boolean_option("rope", "true", "rotate queries and keys by their positions");
}

}  // namespace weft::attention
