# Every switch of the build, with its default.
option(WEFT_BUILD_IO "Build the folder io (needs HDF5, nlohmann-json and xxHash)" ON)
option(WEFT_BUILD_APPS "Build the program weft and the examples (needs io, Boost and spdlog)" ${WEFT_BUILD_IO})
option(WEFT_BUILD_TESTS "Build the test suite" ON)
option(WEFT_BUILD_EXAMPLES "Build the examples, which the test suite runs" ${WEFT_BUILD_TESTS})
option(WEFT_BUILD_BENCHMARKS "Build the benchmarks" ON)
option(WEFT_BUILD_PEERS "Build the yardsticks of benchmarks/peers (needs libtorch)" OFF)
option(WEFT_NATIVE "Compile for the CPU of the building machine (turn off to build packages)" ON)
option(WEFT_WERROR "Treat compiler warnings as errors" OFF)
set(WEFT_ENABLE_CUDA "AUTO" CACHE STRING "Build the CUDA backend: AUTO, ON or OFF")
set(WEFT_ENABLE_CUDNN "AUTO" CACHE STRING "Use cuDNN where the CUDA backend is built: AUTO, ON or OFF")
# Machine code for Hopper, with its own instructions, and portable code that the driver compiles on other cards when it
# first loads it (Ampere, Ada, Blackwell): two passes of the compiler, where one for each card would take many.
set(WEFT_CUDA_ARCHITECTURES "90a-real;80-virtual" CACHE STRING
    "What GPU code is made for, as CMAKE_CUDA_ARCHITECTURES; 90a must be among it for the kernels that Hopper alone runs")
option(WEFT_CUDA_LINEINFO "Let profilers and compute-sanitizer name source lines of kernels" ON)
set(WEFT_ENABLE_ONEDNN "AUTO" CACHE STRING "Use oneDNN for matrix products on the CPU: AUTO, ON or OFF")
set(WEFT_SANITIZE "" CACHE STRING "Sanitizers, comma separated: address, undefined, thread")
set(WEFT_THREADING "openmp" CACHE STRING
    "How kernels use cores: openmp, or threads (standard threads, which ThreadSanitizer understands)")
set_property(CACHE WEFT_ENABLE_CUDA PROPERTY STRINGS AUTO ON OFF)
set_property(CACHE WEFT_ENABLE_CUDNN PROPERTY STRINGS AUTO ON OFF)
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
function(weft_cxx_options)
  target_compile_options(weft_flags INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${ARGN}>")
endfunction()
weft_cxx_options(-Wall -Wextra $<$<BOOL:${WEFT_WERROR}>:-Werror>)
# errno and trapping semantics of <cmath> are not used anywhere and would forbid vectorisation.
# Value semantics (NaN, infinity, order of additions) stay those of IEEE 754.
weft_cxx_options(-fno-math-errno -fno-trapping-math)
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  weft_cxx_options(-O3)
endif()
if(WEFT_NATIVE)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-march=native WEFT_HAS_MARCH_NATIVE)
  if(WEFT_HAS_MARCH_NATIVE)
    weft_cxx_options(-march=native)
  endif()
  check_cxx_compiler_flag(-mprefer-vector-width=512 WEFT_HAS_VECTOR_WIDTH)
  if(WEFT_HAS_VECTOR_WIDTH)
    weft_cxx_options(-mprefer-vector-width=512)
  endif()
endif()
# The environment that CTest gives every test.
# It runs several at once, each with a thread per core: those that wait must sleep, not spin.
set(WEFT_TEST_ENVIRONMENT OMP_WAIT_POLICY=passive)
include(WeftSanitize)
