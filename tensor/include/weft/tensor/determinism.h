#pragma once

namespace weft {

/// Whether operations give the same bits for the same inputs on the same device, whatever it costs.
/// All do on the CPU, and on a GPU where no documented exception says otherwise; those exceptions
/// choose a kernel that adds in a fixed order once this is set. Off at the start of a program.
bool is_deterministic();
void set_deterministic(bool deterministic);

}  // namespace weft
