# weft_add_library(<folder> SOURCES ... [CUDA_SOURCES ...] [CUDNN_SOURCES ...] [LINKS <weft targets>...] [PRIVATE_LINKS ...])
# One static (or shared, with BUILD_SHARED_LIBS) library per folder: target weft_<folder>, alias weft::<folder>,
# public headers under <folder>/include, private headers beside the sources. CUDA_SOURCES are built with the CUDA backend alone,
# CUDNN_SOURCES where that has cuDNN.
function(weft_add_library folder)
  cmake_parse_arguments(ARG "" "" "SOURCES;CUDA_SOURCES;CUDNN_SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  set(target weft_${folder})
  add_library(${target} ${ARG_SOURCES})
  add_library(weft::${folder} ALIAS ${target})
  target_include_directories(
    ${target}
    PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>
           $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
    PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_link_libraries(${target} PUBLIC ${ARG_LINKS} PRIVATE $<BUILD_INTERFACE:weft_flags> ${ARG_PRIVATE_LINKS})
  if(WEFT_HAVE_CUDNN AND ARG_CUDNN_SOURCES)
    list(APPEND ARG_CUDA_SOURCES ${ARG_CUDNN_SOURCES})
    target_include_directories(${target} SYSTEM PRIVATE ${CUDNN_INCLUDE_DIR})
    target_link_libraries(${target} PRIVATE ${CUDNN_LIBRARY})
  endif()
  if(WEFT_HAVE_CUDA AND ARG_CUDA_SOURCES)
    target_sources(${target} PRIVATE ${ARG_CUDA_SOURCES})
    target_link_libraries(${target} PRIVATE CUDA::cudart_static)
    # The frame of kernels in tensor/cuda serves every folder.
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/tensor)
  endif()
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${folder} VERSION ${PROJECT_VERSION})
  install(TARGETS ${target} EXPORT weftTargets)
  install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
endfunction()

# weft_add_test(<name> SOURCES ... [LINKS ...] [LABELS ...])
# One GoogleTest binary; every case becomes a CTest test. Cases whose suite name contains Slow get the label
# "slow" as well, so that `ctest -LE slow` is the quick run.
function(weft_add_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LINKS;LABELS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS cpu)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set(slow_timeout 1500)
  if(WEFT_SANITIZE)
    # A limit is there to end a hang, and ThreadSanitizer slows code down by about ten times.
    math(EXPR ARG_TIMEOUT "10 * ${ARG_TIMEOUT}")
    math(EXPR slow_timeout "10 * ${slow_timeout}")
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LINKS} weft_flags weft_test_support GTest::gtest GTest::gmock GTest::gtest_main)
  # Tests are compiled for quick building; the libraries under test keep their full optimisation.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  gtest_discover_tests(${name} TEST_FILTER -*Slow* TEST_LIST ${name}_TESTS NO_PRETTY_VALUES DISCOVERY_TIMEOUT 60)
  gtest_discover_tests(${name} TEST_FILTER *Slow* TEST_LIST ${name}_slow_TESTS NO_PRETTY_VALUES DISCOVERY_TIMEOUT 60)
  # gtest_discover_tests() cannot hand on properties that are lists, so CTest sets them after the cases are known.
  set(properties ${CMAKE_CURRENT_BINARY_DIR}/${name}_properties.cmake)
  file(WRITE ${properties} "\
if(${name}_TESTS)
  set_tests_properties(\${${name}_TESTS} PROPERTIES
    LABELS \"${ARG_LABELS}\" TIMEOUT ${ARG_TIMEOUT} ENVIRONMENT \"${WEFT_TEST_ENVIRONMENT}\")
endif()
if(${name}_slow_TESTS)
  set_tests_properties(\${${name}_slow_TESTS} PROPERTIES
    LABELS \"${ARG_LABELS};slow\" TIMEOUT ${slow_timeout} ENVIRONMENT \"${WEFT_TEST_ENVIRONMENT}\")
endif()
")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${properties})
endfunction()
