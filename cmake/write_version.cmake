# Writes OUT, apps/common/version.cpp.in with the VERSION, the COMPILERS and what git calls the tree at SOURCE_DIR, unless
# it says so already. A tree without history has the revision REVISION, or none. Run by WeftVersion.cmake.
if(GIT AND EXISTS "${SOURCE_DIR}/.git")
  set(git ${GIT} --no-optional-locks -C ${SOURCE_DIR})
  execute_process(COMMAND ${git} rev-parse --short=12 HEAD OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE
                  ERROR_QUIET)
  if(found)
    set(REVISION ${found})
    # What is written and measured afterwards does not make it another program.
    execute_process(
      COMMAND ${git} status --porcelain --untracked-files=no -- . ":!benchmarks/results" ":!docs" ":!*.md"
      OUTPUT_VARIABLE changes ERROR_QUIET)
    if(changes)
      string(APPEND REVISION -dirty)
    endif()
  endif()
endif()

set(WEFT_VERSION_TEXT "${VERSION}")
if(REVISION)
  string(APPEND WEFT_VERSION_TEXT " (${REVISION})")
endif()
configure_file(${SOURCE_DIR}/apps/common/version.cpp.in ${OUT} @ONLY)
