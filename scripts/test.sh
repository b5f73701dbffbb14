#!/usr/bin/env bash
# Installs what is missing, builds Weft and runs its whole test suite; ends with the summary of CTest.
#
#   scripts/test.sh [--fast] [--no-install] [--build-dir DIR] [-DNAME=VALUE]... [CTEST ARGUMENTS...]
#
#   --fast           skip the tests with the label slow
#   --no-install     install nothing; say what is missing and stop
#   --build-dir DIR  where to build (default: build, beside this folder)
#   -DNAME=VALUE     handed to CMake
#   -h, --help       this text
#
# Everything else is handed to CTest. Example: scripts/test.sh --fast -R Softmax
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

build=$root/build
setup=()
cmake_arguments=()
ctest_arguments=()
while (($#)); do
  case $1 in
    --fast) ctest_arguments+=(-LE slow) ;;
    --no-install) setup=(--no-install) ;;
    --build-dir)
      (($# > 1)) || usage_error "--build-dir needs a folder"
      shift
      build=$1
      ;;
    -D*) cmake_arguments+=("$1") ;;
    -h | --help) print_help && exit 0 ;;
    *) ctest_arguments+=("$1") ;;
  esac
  shift
done

"$root/scripts/setup.sh" ${setup[@]+"${setup[@]}"} || exit 1

say "configuring in $build"
configure "$build" -DCMAKE_BUILD_TYPE=Release -DWEFT_BUILD_TESTS=ON ${cmake_arguments[@]+"${cmake_arguments[@]}"}

say "building with $jobs jobs"
SECONDS=0
cmake --build "$build" --parallel "$jobs" >&2 || die "the build failed; its messages stand above"
say "built in $(minutes $SECONDS)"

say "testing"
ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$jobs" \
  ${ctest_arguments[@]+"${ctest_arguments[@]}"} || die "tests failed; they are listed above"
