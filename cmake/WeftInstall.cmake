# install() and find_package(weft): consumers link weft::nn, weft::attention and so on.
include(CMakePackageConfigHelpers)
install(EXPORT weftTargets NAMESPACE weft:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/weft)
configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/weftConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/weftConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/weft)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/weftConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_LIST_DIR}/FindoneDNN.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/weftConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/weftConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/weft)

# weft.pc for builds without CMake: all libraries of Weft at once. Its paths are relative to the file where they can be,
# so that an installed tree may be moved.
set(WEFT_PC_LIBDIR "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
set(WEFT_PC_INCLUDEDIR "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(WEFT_PC_PREFIX "${CMAKE_INSTALL_PREFIX}")
  set(WEFT_PC_LIBDIR "${CMAKE_INSTALL_FULL_LIBDIR}")
  set(WEFT_PC_INCLUDEDIR "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
else()
  file(RELATIVE_PATH weft_pc_up "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
  string(REGEX REPLACE "/$" "" weft_pc_up "${weft_pc_up}")
  set(WEFT_PC_PREFIX "\${pcfiledir}/${weft_pc_up}")
endif()
set(WEFT_PC_LIBS -lweft_io -lweft_optim -lweft_attention -lweft_nn -lweft_autograd -lweft_tensor)
set(WEFT_PC_PRIVATE_LIBS ${HDF5_C_LIBRARIES} ${XXHASH_LIBRARY} ${BLAS_LIBRARIES} -pthread)
if(WEFT_HAVE_ONEDNN)
  list(APPEND WEFT_PC_PRIVATE_LIBS ${oneDNN_LIBRARY})
endif()
if(WEFT_THREADING STREQUAL "openmp")
  list(APPEND WEFT_PC_PRIVATE_LIBS ${OpenMP_CXX_LIBRARIES})
endif()
list(REMOVE_DUPLICATES WEFT_PC_PRIVATE_LIBS)
if(NOT BUILD_SHARED_LIBS)  # static libraries bring nothing along
  list(APPEND WEFT_PC_LIBS ${WEFT_PC_PRIVATE_LIBS})
  set(WEFT_PC_PRIVATE_LIBS "")
endif()
list(JOIN WEFT_PC_LIBS " " WEFT_PC_LIBS)
list(JOIN WEFT_PC_PRIVATE_LIBS " " WEFT_PC_PRIVATE_LIBS)
configure_file(${CMAKE_CURRENT_LIST_DIR}/weft.pc.in ${CMAKE_CURRENT_BINARY_DIR}/weft.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/weft.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
