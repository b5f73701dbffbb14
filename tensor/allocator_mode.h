#pragma once

namespace weft {

/// How memory is handed out: WEFT_ALLOCATOR in the environment.
enum class AllocatorMode { caching, direct, poison };

/// Throws ConfigError where WEFT_ALLOCATOR is none of them.
AllocatorMode allocator_mode();

}  // namespace weft
