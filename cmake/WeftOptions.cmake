# Every switch of the build, with its default.
option(WEFT_BUILD_TESTS "Build the test suite" ON)
option(WEFT_BUILD_EXAMPLES "Build the examples, which the test suite runs" ${WEFT_BUILD_TESTS})
option(WEFT_BUILD_BENCHMARKS "Build the benchmarks" ON)
option(WEFT_BUILD_PEERS "Build the yardsticks of benchmarks/peers (needs libtorch)" OFF)
option(WEFT_NATIVE "Compile for the CPU of the building machine (turn off to build packages)" ON)
option(WEFT_WERROR "Treat compiler warnings as errors" OFF)
set(WEFT_ENABLE_CUDA "AUTO" CACHE STRING "Build the CUDA backend: AUTO, ON or OFF")
set(WEFT_ENABLE_ONEDNN "AUTO" CACHE STRING "Use oneDNN for matrix products on the CPU: AUTO, ON or OFF")
set(WEFT_SANITIZE "" CACHE STRING "Sanitizers, comma separated: address, undefined, thread")
set(WEFT_THREADING "openmp" CACHE STRING
    "How kernels use cores: openmp, or threads (standard threads, which ThreadSanitizer understands)")
set_property(CACHE WEFT_ENABLE_CUDA PROPERTY STRINGS AUTO ON OFF)
set_property(CACHE WEFT_ENABLE_ONEDNN PROPERTY STRINGS AUTO ON OFF)
set_property(CACHE WEFT_THREADING PROPERTY STRINGS openmp threads)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
if(NOT WEFT_THREADING MATCHES "^(openmp|threads)$")
  message(FATAL_ERROR "WEFT_THREADING is '${WEFT_THREADING}'; allowed are openmp and threads")
endif()

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# Flags shared by every target of ours; not exported to consumers.
add_library(weft_flags INTERFACE)
target_compile_options(weft_flags INTERFACE -Wall -Wextra $<$<BOOL:${WEFT_WERROR}>:-Werror>)
# errno and trapping semantics of <cmath> are not used anywhere and would forbid vectorisation.
# Value semantics (NaN, infinity, order of additions) stay those of IEEE 754.
target_compile_options(weft_flags INTERFACE -fno-math-errno -fno-trapping-math)
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  target_compile_options(weft_flags INTERFACE -O3)
endif()
if(WEFT_NATIVE)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-march=native WEFT_HAS_MARCH_NATIVE)
  if(WEFT_HAS_MARCH_NATIVE)
    target_compile_options(weft_flags INTERFACE -march=native)
  endif()
  check_cxx_compiler_flag(-mprefer-vector-width=512 WEFT_HAS_VECTOR_WIDTH)
  if(WEFT_HAS_VECTOR_WIDTH)
    target_compile_options(weft_flags INTERFACE -mprefer-vector-width=512)
  endif()
endif()
# The environment that CTest gives every test.
# It runs several at once, each with a thread per core: those that wait must sleep, not spin.
set(WEFT_TEST_ENVIRONMENT OMP_WAIT_POLICY=passive)
include(WeftSanitize)
