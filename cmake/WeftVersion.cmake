# weft_version: the version and the git revision that programs name themselves by, and their compilers. Git is asked at
# every build, since a commit is no reason to configure again; programs are linked anew only where the answer changes.
set(WEFT_REVISION "" CACHE STRING "revision that programs name where the tree has no git history")
find_package(Git QUIET)

set(weft_compilers "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
if(WEFT_HAVE_CUDA)
  string(APPEND weft_compilers ", CUDA ${CMAKE_CUDA_COMPILER_VERSION}")
endif()

set(weft_version_source ${PROJECT_BINARY_DIR}/version/version.cpp)
add_custom_target(
  weft_write_version
  COMMAND ${CMAKE_COMMAND} -DGIT=${GIT_EXECUTABLE} -DSOURCE_DIR=${PROJECT_SOURCE_DIR} -DVERSION=${PROJECT_VERSION}
          -DREVISION=${WEFT_REVISION} "-DCOMPILERS=${weft_compilers}" -DOUT=${weft_version_source}
          -P ${CMAKE_CURRENT_LIST_DIR}/write_version.cmake
  BYPRODUCTS ${weft_version_source}
  COMMENT "")
add_library(weft_version STATIC EXCLUDE_FROM_ALL ${weft_version_source})
add_dependencies(weft_version weft_write_version)
target_include_directories(weft_version PUBLIC ${PROJECT_SOURCE_DIR}/apps)
