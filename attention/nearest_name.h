#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace weft::attention {

/// For errors about an unknown name: "did you mean \"full\"? known: full, swa".
std::string name_hint(std::string_view name, const std::vector<std::string>& known);

}  // namespace weft::attention
