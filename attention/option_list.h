#pragma once

#include <string>
#include <vector>

#include "weft/attention/mechanism.h"

namespace weft::attention {

// Lines of the lists in which mechanisms describe their options.

OptionInfo integer_option(const char* name, const char* value, const char* help, double min,
                          double max = 1 << 30);
OptionInfo boolean_option(const char* name, const char* value, const char* help);
OptionInfo choice_option(const char* name, const char* value, const char* help,
                         std::vector<std::string> choices);

// Lines that several mechanisms have.

OptionInfo window_option(const char* value);
OptionInfo head_dim_option();
OptionInfo rope_option();

}  // namespace weft::attention
